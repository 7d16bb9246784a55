"""TAID: a target that starts near the student and moves to the teacher as fast as the student follows."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from plad_bench import Access, Method, Schedule, Term, TokenObjective, param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class TAIDParams(DivergenceParams):
    """Parameters of taid."""

    t_start: float = param(0.4, ge=0, le=1, search=(0.1, 0.7), source="arXiv:2501.16937")
    """The teacher's share of the target's logits at the first step."""
    t_end: float = param(1.0, ge=0, le=1, source="arXiv:2501.16937")
    """Its maximum."""
    alpha: float = param(5e-4, ge=0, source="arXiv:2501.16937")
    """Maximum increase per step beyond the linear schedule."""
    momentum: float = param(0.99, ge=0, lt=1, source="arXiv:2501.16937")
    """Momentum of the running mean of the loss's relative decrease."""
    t: float | None = param(None, ge=0, le=1, source="ours")
    """Fixes the share; otherwise a schedule sets it during training."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: TAIDParams) -> Tensor:
    """KL(p_t||q), p_t = softmax((1 - t) sg(z_q) + t z_p), [N] (Shing et al. 2025)."""
    from plad_bench.learn.divergences import interpolated_kl

    t = params.t_start if params.t is None else params.t
    return with_cross_entropy(interpolated_kl(student, teacher, t), student, labels, params.ce_weight)


def start(params: TAIDParams) -> Mapping[str, float]:
    """The schedule before the first step: t, and the running mean of the loss's relative decrease."""
    return {"t": params.t_start, "fall": 0.0}


def apply(params: TAIDParams, state: Mapping[str, float], _progress: float) -> TAIDParams:
    """Set t."""
    return params if params.t is not None else params.model_copy(update={"t": state["t"]})


def update(
    params: TAIDParams, state: Mapping[str, float], progress: float, loss: float, _validation: float | None
) -> Mapping[str, float]:
    """The next t: min(t_end, max(linear schedule, t + alpha sigmoid(mean fall) (1 - t)))."""
    fall, previous = state["fall"], state.get("previous")
    if previous:
        fall = params.momentum * fall + (1 - params.momentum) * (previous - loss) / previous
    linear = params.t_start + progress * (params.t_end - params.t_start)
    bold = state["t"] + params.alpha * (1 - state["t"]) / (1 + math.exp(-fall))
    return {"t": min(params.t_end, max(linear, bold)), "fall": fall, "previous": loss}


RECORDS = (
    Method(
        name="taid",
        summary="Forward KL to a target between student and teacher that moves on as the student follows.",
        paper="arXiv:2501.16937",
        title="TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in Language Models",
        equation="KL(p_t || q), p_t = softmax((1 - t) sg(z_q) + t z_p)",
        access=Access.LOGITS,
        params=TAIDParams,
        objective=TokenObjective(
            terms=(Term(loss=loss, text=lambda params: params.data),),
            schedule=Schedule(start=start, apply=apply, update=update),
        ),
    ),
)
