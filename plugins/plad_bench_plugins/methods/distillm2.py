"""DistiLLM-2: raises the likelihood of the teacher's text and lowers that of the student's, with logits."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective, param

if TYPE_CHECKING:
    from torch import Tensor


class DistiLLM2Params(MethodParams):
    """Parameters of distillm2."""

    alpha: float = param(0.1, ge=0, lt=1, search=(0.01, 0.5, "log"), source="arXiv:2503.07067")
    """Share of the other distribution in the mixture."""
    beta: float = param(1.0, ge=0, le=2, search=(0.2, 2.0), source="arXiv:2503.07067")
    """Weight of the student's text; the teacher's text has 2 - beta."""


def teacher_term(student: Tensor, teacher: Tensor, _labels: Tensor, params: DistiLLM2Params) -> Tensor:
    """(2 - beta) KL(p || alpha p + (1 - alpha) q), [N] (Ko et al. 2025)."""
    from plad_bench.learn.divergences import skew_forward_kl

    return (2 - params.beta) * skew_forward_kl(student, teacher, params.alpha)


def student_term(student: Tensor, teacher: Tensor, _labels: Tensor, params: DistiLLM2Params) -> Tensor:
    """The student's side: beta KL(q || (1 - alpha) p + alpha q), [N]."""
    from plad_bench.learn.divergences import skew_reverse_kl

    return params.beta * skew_reverse_kl(student, teacher, params.alpha)


RECORDS = (
    Method(
        name="distillm2",
        summary="Skew KL on the teacher's text and skew reverse KL on off-policy samples: PLaD's pairs, with logits.",
        paper="arXiv:2503.07067",
        title="DistiLLM-2: A Contrastive Approach Boosts the Distillation of LLMs",
        equation="(2 - beta) KL(p || alpha p + (1 - alpha) q) on y_T + beta KL(q || (1 - alpha) p + alpha q) on y_S",
        access=Access.LOGITS,
        params=DistiLLM2Params,
        objective=TokenObjective(
            terms=(Term(loss=teacher_term, text=Text.TEACHER), Term(loss=student_term, text=Text.SAMPLE))
        ),
        step_cost="a second sequence per prompt, through both models",
    ),
)
