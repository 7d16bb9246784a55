"""A control: the teacher's responses to other prompts, from which only its style can be learnt."""

from __future__ import annotations

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective
from plad_bench_plugins.methods.seqkd import loss

RECORDS = (
    Method(
        name="shuffled-teacher",
        summary="Cross-entropy on the teacher's responses, each paired with another prompt.",
        paper="no paper: ours",
        title="Sequence-level distillation of shuffled responses",
        equation="-log q(y_T'), y_T' the teacher's response to another prompt",
        access=Access.TEXT,
        control=True,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.SHUFFLED),), teacher_logits=False),
    ),
)
