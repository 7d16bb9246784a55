"""A control: the teacher's text without what it says of the prompt, so that only its style is left to learn."""

from __future__ import annotations

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective
from plad_bench_plugins.methods.seqkd import loss

RECORDS = (
    Method(
        name="shuffled-teacher",
        summary="Cross-entropy on the teacher's responses, every prompt with those to another one.",
        paper="no paper: ours",
        title="Sequence-level distillation of shuffled responses",
        equation="-log q(y_T'), y_T' the teacher's response to another prompt",
        access=Access.TEXT,
        control=True,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.SHUFFLED),), teacher_logits=False),
    ),
)
