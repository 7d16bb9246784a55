"""Pseudo-preference pairs with off-policy samples as the rejected responses, without annotation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench import Candidates, Pair, PairBuilder, PairParams, Scorers, Text


def teacher_over_student(candidates: Sequence[Candidates], params: PairParams, scorers: Scorers) -> Iterator[Pair]:
    """Prefer the teacher's response to the off-policy sample (arXiv:2406.02886, section 3)."""
    return over_samples(candidates, Text.TEACHER)


def reference_over_student(candidates: Sequence[Candidates], params: PairParams, scorers: Scorers) -> Iterator[Pair]:
    """The control: prefer the task's reference to the off-policy sample."""
    return over_samples(candidates, Text.REFERENCE)


def over_samples(candidates: Sequence[Candidates], better: Text) -> Iterator[Pair]:
    """One pair per off-policy sample; responses of `better` are reused in turn if there are fewer."""
    for c in candidates:
        if chosen := c.responses[better]:
            for i, rejected in enumerate(c.responses[Text.SAMPLE]):
                yield Pair(id=c.id, chosen=chosen[i % len(chosen)], rejected=rejected)


RECORDS = (
    PairBuilder(
        name="teacher-over-student",
        summary="PLaD's pairs: the teacher's response over the off-policy sample.",
        needs=frozenset({Text.TEACHER, Text.SAMPLE}),
        build=teacher_over_student,
    ),
    PairBuilder(
        name="reference-over-student",
        summary="A control for PLaD's pairs: the reference over the off-policy sample.",
        needs=frozenset({Text.REFERENCE, Text.SAMPLE}),
        build=reference_over_student,
    ),
)
