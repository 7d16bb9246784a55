"""DistiLLM: skew KL on fixed text and, depending on validation, on-policy text and a replay buffer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from plad_bench import Access, Method, Sampling, Schedule, Term, Text, TokenObjective, param
from plad_bench_plugins.methods._params import TokenParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class DistiLLMParams(TokenParams):
    """Parameters of distillm."""

    kind: Literal["skl", "srkl"] = param("skl", source="arXiv:2402.03898 proposes both")
    """Skew forward or skew reverse KL."""
    alpha: float = param(0.1, ge=0, lt=1, search=(0.01, 0.5, "log"), source="arXiv:2402.03898")
    """Share of the other distribution in the mixture."""
    buffer: int = param(1000, ge=1, source="arXiv:2402.03898")
    """Responses in the replay buffer."""
    raise_by: float = param(0.1, ge=0, le=1, source="arXiv:2402.03898")
    """Increase of the probability of on-policy text after a worse validation loss."""
    student: float | None = param(None, ge=0, le=1, source="ours")
    """Fixes the probability of on-policy text; otherwise validation raises it from 0 during training."""
    replayed: float | None = param(None, ge=0, le=1, source="ours")
    """Fixes the replayed share of on-policy text; otherwise it grows from 0 to 1 during training."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, params: DistiLLMParams) -> Tensor:
    """KL(p || a p + (1 - a) q) or KL(q || (1 - a) p + a q), [N] (Ko et al. 2024)."""
    from plad_bench.learn.divergences import skew_forward_kl, skew_reverse_kl

    divergence = skew_forward_kl if params.kind == "skl" else skew_reverse_kl
    return divergence(student, teacher, params.alpha)


def student_share(share: float, previous: float, validation: float, params: DistiLLMParams) -> float:
    """The probability of on-policy text after a validation: raised if the loss is worse than the previous one."""
    return min(1.0, share + params.raise_by) if validation > previous else share


def apply(params: DistiLLMParams, state: Mapping[str, float], progress: float) -> DistiLLMParams:
    """Set the share of on-policy text from the schedule, and the replayed share of it from the progress of training."""
    student = state["share"] if params.student is None else params.student
    replayed = progress if params.replayed is None else params.replayed
    return params.model_copy(update={"student": student, "replayed": replayed})


def update(
    params: DistiLLMParams, state: Mapping[str, float], _progress: float, _loss: float, validation: float | None
) -> Mapping[str, float]:
    """Update the schedule with a validation loss."""
    if validation is None:
        return state
    previous = state.get("validation", validation)
    return {"share": student_share(state["share"], previous, validation, params), "validation": validation}


def text(params: DistiLLMParams) -> Mapping[Text, float]:
    """Fixed text or the student's: on-policy, or from the replay buffer once it has entries."""
    student, replayed = params.student or 0.0, params.replayed or 0.0
    return {params.data: 1 - student, Text.STUDENT: student * (1 - replayed), Text.REPLAY: student * replayed}


RECORDS = (
    Method(
        name="distillm",
        summary="Skew KL on fixed text and, as often as validation requires, on on-policy text, increasingly replayed.",
        paper="arXiv:2402.03898",
        title="DistiLLM: Towards Streamlined Distillation for Large Language Models",
        equation="KL(p || alpha p + (1 - alpha) q), or KL(q || (1 - alpha) p + alpha q)",
        access=Access.LOGITS,
        params=DistiLLMParams,
        objective=TokenObjective(
            terms=(Term(loss=loss, text=text, sampling=lambda params: Sampling(replay=params.buffer)),),
            schedule=Schedule(start=lambda params: {"share": 0.0}, apply=apply, update=update, validates=True),
        ),
        step_cost="a validation loss ten times; samples a response of the student for every prompt in some steps",
    ),
)
