"""ImitKD: forward KL on fixed text and, increasingly, on on-policy text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Schedule, Term, Text, TokenObjective, param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class ImitKDParams(DivergenceParams):
    """Parameters of imitkd."""

    decay: float = param(200.0, ge=1, source="arXiv:2009.07253")
    """The share of fixed text at the end of training is 1 / decay."""
    fixed: float | None = param(None, ge=0, le=1, source="ours")
    """Fixes the share of fixed text; otherwise a schedule sets it during training."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ImitKDParams) -> Tensor:
    """KL(p||q), [N] (Lin et al. 2020), with cross-entropy if its weight is not 0."""
    from plad_bench.learn.divergences import forward_kl

    return with_cross_entropy(forward_kl(student, teacher), student, labels, params.ce_weight)


def fixed_share(progress: float, params: ImitKDParams) -> float:
    """Fixed text with probability decay^(-progress) per sequence; otherwise on-policy text."""
    return float(params.decay**-progress)


def apply(params: ImitKDParams, _state: Mapping[str, float], progress: float) -> ImitKDParams:
    """Set the share of fixed text."""
    return params if params.fixed is not None else params.model_copy(update={"fixed": fixed_share(progress, params)})


def text(params: ImitKDParams) -> Mapping[Text, float]:
    """Fixed or on-policy text."""
    fixed = 1.0 if params.fixed is None else params.fixed
    return {params.data: fixed, Text.STUDENT: 1 - fixed}


RECORDS = (
    Method(
        name="imitkd",
        summary="Forward KL on fixed text and, increasingly, on on-policy text.",
        paper="arXiv:2009.07253",
        title="Autoregressive Knowledge Distillation through Imitation Learning",
        equation="KL(p || q) on fixed text with probability decay^(-t/N), else on student text",
        access=Access.LOGITS,
        params=ImitKDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=text, draw="sequence"),), schedule=Schedule(apply=apply)),
        step_cost="samples responses of the student, first for no prompts and finally for nearly all",
    ),
)
