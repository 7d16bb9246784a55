"""Parameters that several methods share, and the mixing that goes with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from plad_bench import MethodParams, Text, param

if TYPE_CHECKING:
    from torch import Tensor


class TokenParams(MethodParams):
    """What every token method on fixed text takes."""

    data: Literal[Text.REFERENCE, Text.TEACHER] = param(Text.REFERENCE, source="ours")
    """The text it trains on: the task's references or the teacher's responses."""


class DivergenceParams(TokenParams):
    """Methods whose papers use the divergence alone; cross-entropy is an option."""

    ce_weight: float = param(0.0, ge=0, le=1, source="the divergence alone, as in the paper")
    """Weight of plain cross-entropy, taken at temperature 1; the divergence gets the rest."""


class FDistillParams(MethodParams):
    """The f-divergences of arXiv:2307.15190: one term on fixed text, one on the student's own."""

    data: Literal[Text.TEACHER, Text.REFERENCE] = param(Text.TEACHER, source="arXiv:2307.15190")
    """The text of the expectation under p, and of cross-entropy."""
    ce_weight: float = param(0.0, ge=0, le=1, source="the divergence alone, as in the paper")
    """Weight of plain cross-entropy, taken on `data`; the divergence gets the rest."""


def with_cross_entropy(divergence: Tensor, student: Tensor, labels: Tensor, weight: float) -> Tensor:
    """The mix weight CE(y) + (1 - weight) divergence, [N]; no cross-entropy is computed where it weighs nothing."""
    from plad_bench.learn.divergences import cross_entropy

    if not weight:
        return divergence
    return weight * cross_entropy(student, labels) + (1 - weight) * divergence
