"""Parameters that several methods share, and the mixing of losses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from plad_bench import MethodParams, Text, param

if TYPE_CHECKING:
    from torch import Tensor


class TokenParams(MethodParams):
    """Parameters of token methods on fixed text."""

    data: Literal[Text.REFERENCE, Text.TEACHER] = param(Text.REFERENCE, source="ours")
    """The training text: the task's references or the teacher's responses."""


class DivergenceParams(TokenParams):
    """Methods whose papers use the divergence alone; cross-entropy is an option."""

    ce_weight: float = param(0.0, ge=0, le=1, source="the divergence alone, as in the paper")
    """Weight of cross-entropy at temperature 1; the divergence has the remaining weight."""


class FDistillParams(MethodParams):
    """The f-divergences of arXiv:2307.15190: one term on fixed text, one on on-policy text."""

    data: Literal[Text.TEACHER, Text.REFERENCE] = param(Text.TEACHER, source="arXiv:2307.15190")
    """The text of the expectation under p, and of cross-entropy."""
    ce_weight: float = param(0.0, ge=0, le=1, source="the divergence alone, as in the paper")
    """Weight of cross-entropy on `data`; the divergence has the remaining weight."""


def with_cross_entropy(divergence: Tensor, student: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Mix cross-entropy and divergence: weight CE(y) + (1 - weight) divergence, [N]. At weight 0 CE is not computed."""
    from plad_bench.learn.divergences import cross_entropy

    if not weight:
        return divergence
    return weight * cross_entropy(student, labels) + (1 - weight) * divergence
