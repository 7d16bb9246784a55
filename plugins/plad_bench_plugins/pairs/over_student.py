"""Pseudo-preference pairs whose worse side is a sample of the frozen student: no annotation is needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench import Candidates, Pair, PairBuilder, Params, Text


def teacher_over_student(candidates: Sequence[Candidates], params: Params) -> Iterator[Pair]:
    """The teacher's response is taken to beat the student's own (arXiv:2406.02886, section 3)."""
    return _over_sample(candidates, Text.TEACHER)


def reference_over_student(candidates: Sequence[Candidates], params: Params) -> Iterator[Pair]:
    """The control: the task's reference in the teacher's place."""
    return _over_sample(candidates, Text.REFERENCE)


def _over_sample(candidates: Sequence[Candidates], better: Text) -> Iterator[Pair]:
    """The i-th response of `better` over the i-th sample, as far as both go.

    Texts equal up to white space are no preference and give no pair.
    """
    for c in candidates:
        for chosen, rejected in zip(c.responses[better], c.responses[Text.SAMPLE], strict=False):
            if chosen.text.split() != rejected.text.split():
                yield Pair(id=c.id, chosen=chosen, rejected=rejected)


RECORDS = (
    PairBuilder(
        name="teacher-over-student",
        summary="PLaD's pairs: the teacher's response over the frozen student's sample.",
        needs=frozenset({Text.TEACHER, Text.SAMPLE}),
        build=teacher_over_student,
    ),
    PairBuilder(
        name="reference-over-student",
        summary="A control for PLaD's pairs: the reference over the frozen student's sample.",
        needs=frozenset({Text.REFERENCE, Text.SAMPLE}),
        build=reference_over_student,
    ),
)
