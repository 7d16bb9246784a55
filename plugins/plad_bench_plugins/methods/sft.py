"""Supervised fine-tuning on the references, which every distillation method should beat."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective

if TYPE_CHECKING:
    from torch import Tensor


def loss(student: Tensor, _teacher: Tensor | None, labels: Tensor, _params: MethodParams) -> Tensor:
    """-log q(y), [N]: maximum likelihood."""
    from plad_bench.learn.divergences import cross_entropy

    return cross_entropy(student, labels)


RECORDS = (
    Method(
        name="sft",
        summary="Cross-entropy on the task's references; no teacher.",
        paper="no paper: maximum likelihood",
        title="Supervised fine-tuning",
        equation="-log q(y_ref)",
        access=Access.NONE,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),), teacher_logits=False),
    ),
)
