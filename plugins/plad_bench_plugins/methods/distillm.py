"""DistiLLM: skew KL, with student text from a replay buffer as often as validation asks for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from plad_bench import Text, param
from plad_bench_plugins.methods._params import TokenParams

if TYPE_CHECKING:
    from torch import Tensor


class DistiLLMParams(TokenParams):
    """Parameters of distillm."""

    kind: Literal["skl", "srkl"] = param("skl", source="arXiv:2402.03898 proposes both")
    """Skew forward or skew reverse KL."""
    alpha: float = param(0.1, ge=0, lt=1, source="arXiv:2402.03898")
    """Share of a distribution that is mixed into the other one's place."""
    buffer: int = param(1000, ge=1, source="arXiv:2402.03898")
    """How many student responses the replay buffer holds."""
    raise_by: float = param(0.1, ge=0, le=1, source="arXiv:2402.03898")
    """What a worse validation loss adds to the probability of student text."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, params: DistiLLMParams) -> Tensor:
    """KL(p || a p + (1 - a) q) or KL(q || (1 - a) p + a q), [N] (Ko et al. 2024)."""
    from plad_bench.learn.divergences import skew_forward_kl, skew_reverse_kl

    divergence = skew_forward_kl if params.kind == "skl" else skew_reverse_kl
    return divergence(student, teacher, params.alpha)


def student_share(share: float, previous: float, validation: float, params: DistiLLMParams) -> float:
    """The probability of student text after a validation: raised where the loss is worse than the previous one."""
    return min(1.0, share + params.raise_by) if validation > previous else share


def shares(share: float, progress: float, params: DistiLLMParams) -> dict[str, float]:
    """Where a step's text comes from: of the student's share, replay takes over from fresh samples linearly."""
    return {params.data: 1 - share, Text.STUDENT: share * (1 - progress), "replay": share * progress}


RECORDS = ()
"""None yet: a term's text cannot yet be a mixture, nor come from a replay buffer, nor heed the validation loss."""
