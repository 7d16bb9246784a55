"""TVD: total variation distance, half on fixed and half on on-policy text."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, Text, TokenObjective
from plad_bench_plugins.methods._params import FDistillParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


def teacher_term(student: Tensor, teacher: Tensor, labels: Tensor, params: FDistillParams) -> Tensor:
    """1/2 TV(p, q), [N], with cross-entropy on the same text (Wen et al. 2023)."""
    from plad_bench.learn.divergences import total_variation

    return with_cross_entropy(total_variation(student, teacher) / 2, student, labels, params.ce_weight)


def student_term(student: Tensor, teacher: Tensor, _labels: Tensor, _params: FDistillParams) -> Tensor:
    """1/2 TV(p, q), [N]."""
    from plad_bench.learn.divergences import total_variation

    return total_variation(student, teacher) / 2


RECORDS = (
    Method(
        name="tvd",
        summary="Total variation distance, half on fixed and half on on-policy text.",
        paper="arXiv:2307.15190",
        title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        equation="1/2 sum |p - q|",
        access=Access.LOGITS,
        params=FDistillParams,
        objective=TokenObjective(
            terms=(
                Term(loss=teacher_term, text=lambda params: params.data),
                Term(loss=student_term, text=Text.STUDENT, weight=lambda params: 1 - params.ce_weight),
            )
        ),
        step_cost="samples a response of the student for every prompt; two forward passes of each model",
    ),
)
