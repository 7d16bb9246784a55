"""Sequence-level knowledge distillation: fine-tuning on the teacher's responses."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective

if TYPE_CHECKING:
    from torch import Tensor


def loss(student: Tensor, _teacher: Tensor | None, labels: Tensor, _params: MethodParams) -> Tensor:
    """-log q(y_T), [N] (Kim and Rush 2016, section 3.2): the teacher's distribution collapsed to its response."""
    from plad_bench.learn.divergences import cross_entropy

    return cross_entropy(student, labels)


RECORDS = (
    Method(
        name="seqkd",
        summary="Cross-entropy on the teacher's responses, without its logits.",
        paper="arXiv:1606.07947",
        title="Sequence-Level Knowledge Distillation",
        equation="-log q(y_T)",
        access=Access.TEXT,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.TEACHER),), teacher_logits=False),
    ),
)
