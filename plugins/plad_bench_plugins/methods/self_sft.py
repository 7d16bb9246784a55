"""A control: what more fine-tuning does where the student has nothing to learn from but itself."""

from __future__ import annotations

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective
from plad_bench_plugins.methods.sft import loss

RECORDS = (
    Method(
        name="self-sft",
        summary="Cross-entropy on responses that the initialised student sampled itself; no teacher.",
        paper="arXiv:2604.01193",
        title="Fine-tuning on the student's own samples (SSD), unfiltered",
        equation="-log q(y_q0)",
        access=Access.NONE,
        control=True,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.SAMPLE),), teacher_logits=False),
    ),
)
