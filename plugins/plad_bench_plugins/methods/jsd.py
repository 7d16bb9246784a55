"""JSD: the generalised Jensen-Shannon divergence, each expectation on text from its own distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, Text, TokenObjective, param
from plad_bench_plugins.methods._params import FDistillParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class JSDParams(FDistillParams):
    """Parameters of jsd."""

    beta: float = param(0.5, ge=0, le=1, search=(0.05, 0.95), source="arXiv:2307.15190")
    """The teacher's share of the mixture; 0 is defined as KL(p||q), 1 as KL(q||p)."""


def teacher_term(student: Tensor, teacher: Tensor, labels: Tensor, params: JSDParams) -> Tensor:
    """The expectation under p: beta KL(p||m), m = beta p + (1 - beta) q, [N], with cross-entropy on the same text."""
    from plad_bench.learn.divergences import jsd_teacher_term

    return with_cross_entropy(jsd_teacher_term(student, teacher, params.beta), student, labels, params.ce_weight)


def student_term(student: Tensor, teacher: Tensor, _labels: Tensor, params: JSDParams) -> Tensor:
    """(1 - beta) KL(q||m), [N]."""
    from plad_bench.learn.divergences import jsd_student_term

    return jsd_student_term(student, teacher, params.beta)


RECORDS = (
    Method(
        name="jsd",
        summary="Jensen-Shannon divergence: the teacher's term on fixed text, the student's on on-policy text.",
        paper="arXiv:2307.15190",
        title="f-Divergence Minimization for Sequence-Level Knowledge Distillation",
        equation="beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q",
        access=Access.LOGITS,
        params=JSDParams,
        objective=TokenObjective(
            terms=(
                # An expectation of weight 0 needs no text.
                Term(
                    loss=teacher_term,
                    text=lambda params: params.data,
                    weight=lambda params: float(params.beta < 1 or params.ce_weight > 0),
                ),
                Term(
                    loss=student_term,
                    text=Text.STUDENT,
                    weight=lambda params: (1 - params.ce_weight) * (params.beta > 0),
                ),
            )
        ),
        step_cost="samples a response of the student for every prompt; two forward passes of each model",
    ),
)
