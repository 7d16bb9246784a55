"""RKL: reverse KL on on-policy text; it is mode-seeking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, Text, TokenObjective
from plad_bench_plugins.methods._params import FDistillParams

if TYPE_CHECKING:
    from torch import Tensor


def data_term(student: Tensor, _teacher: Tensor, labels: Tensor, _params: FDistillParams) -> Tensor:
    """CE(y), [N]: reverse KL has no expectation under p."""
    from plad_bench.learn.divergences import cross_entropy

    return cross_entropy(student, labels)


def student_term(student: Tensor, teacher: Tensor, _labels: Tensor, _params: FDistillParams) -> Tensor:
    """KL(q||p), [N] (Wen et al. 2023)."""
    from plad_bench.learn.divergences import reverse_kl

    return reverse_kl(student, teacher)


RECORDS = (
    Method(
        name="rkl",
        summary="Reverse KL to the teacher on on-policy text.",
        paper="arXiv:2307.15190",
        title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        equation="KL(q || p)",
        access=Access.LOGITS,
        params=FDistillParams,
        objective=TokenObjective(
            terms=(
                Term(loss=data_term, text=lambda params: params.data, weight=lambda params: params.ce_weight),
                Term(loss=student_term, text=Text.STUDENT, weight=lambda params: 1 - params.ce_weight),
            )
        ),
        step_cost="samples a response of the student for every prompt",
    ),
)
