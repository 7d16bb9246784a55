"""Pseudo-preference pairs whose worse side is a sample of the initialised student: no annotation is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench import Candidates, Pair, PairBuilder, PairParams, Scorers, Text


def teacher_over_student(candidates: Sequence[Candidates], params: PairParams, scorers: Scorers) -> Iterator[Pair]:
    """The teacher's response is taken to beat the student's own (arXiv:2406.02886, section 3)."""
    return over_samples(candidates, Text.TEACHER)


def reference_over_student(candidates: Sequence[Candidates], params: PairParams, scorers: Scorers) -> Iterator[Pair]:
    """The control: the task's reference in the teacher's place."""
    return over_samples(candidates, Text.REFERENCE)


def over_samples(candidates: Sequence[Candidates], better: Text) -> Iterator[Pair]:
    """A pair for every sample; the responses of `better` take turns where they are fewer."""
    for c in candidates:
        if chosen := c.responses[better]:
            for i, rejected in enumerate(c.responses[Text.SAMPLE]):
                yield Pair(id=c.id, chosen=chosen[i % len(chosen)], rejected=rejected)


RECORDS = (
    PairBuilder(
        name="teacher-over-student",
        summary="PLaD's pairs: the teacher's response over the initialised student's sample.",
        needs=frozenset({Text.TEACHER, Text.SAMPLE}),
        build=teacher_over_student,
    ),
    PairBuilder(
        name="reference-over-student",
        summary="A control for PLaD's pairs: the reference over the initialised student's sample.",
        needs=frozenset({Text.REFERENCE, Text.SAMPLE}),
        build=reference_over_student,
    ),
)
