"""A control: further fine-tuning without any information from a teacher or from references."""

from __future__ import annotations

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective
from plad_bench_plugins.methods.sft import loss

RECORDS = (
    Method(
        name="self-sft",
        summary="Cross-entropy on off-policy samples of the student itself; no teacher.",
        paper="arXiv:2604.01193",
        title="Fine-tuning on the student's own samples (SSD), unfiltered",
        equation="-log q(y_q0)",
        access=Access.NONE,
        control=True,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.SAMPLE),), teacher_logits=False),
    ),
)
