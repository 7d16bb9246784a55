"""Samples of a board's rows: responses to the same prompts, from the files beside their records.

A file that differs from its record's hash is listed among the problems. No number depends on it, so the record counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from plad_bench.records import storage
from plad_bench.records.schema import Sample
from plad_bench.records.storage import RecordError
from plad_bench.records.validation import Complain, LoadedRecord

if TYPE_CHECKING:
    from plad_bench.leaderboard.metric_info import MetricInfo

MOST = 40
"""Number of rows, from the top, whose samples are shown."""


@dataclass(frozen=True)
class Output:
    """A response, and its score by the primary metric; None if it has none."""

    text: str
    score: float | None


@dataclass(frozen=True)
class Shown:
    """A prompt with the response of each row; None for a row without a sample."""

    prompt: str
    reference: str
    outputs: tuple[Output | None, ...]


def side_by_side(
    rows: Sequence[Sequence[LoadedRecord]], metric: MetricInfo | None, complain: Complain
) -> tuple[Shown, ...]:
    """The prompts of the first row with samples, sorted by id. A sample of another prompt with the same id is dropped.

    Args:
        rows: the cells of each row of a board.
        metric: the primary metric.
        complain: called for unusable files.
    """
    found = [_of(cells, complain) for cells in rows[:MOST]]
    first = next(filter(None, found), {})
    shown = []
    for example, (_, sample) in first.items():
        same = [of.get(example) for of in found]
        outputs = tuple(_output(*one, metric) if one and one[1].prompt == sample.prompt else None for one in same)
        shown.append(Shown(sample.prompt, sample.reference, outputs))
    return tuple(shown)


def _of(cells: Sequence[LoadedRecord], complain: Complain) -> dict[str, tuple[LoadedRecord, Sample]]:
    """The samples of the first cell that has any, by example."""
    for cell in cells:
        named = cell.record.samples
        if named is None:
            continue
        beside = replace(cell, file=f"{cell.file.rpartition('/')[0]}/{named.file}")
        if not cell.record.task.redistributable:
            complain(beside, "holds text of a task whose text may not be redistributed")
            continue
        try:
            return {s.example: (cell, s) for s in storage.read_samples(cell.directory / named.file, named.sha256)}
        except RecordError as error:
            complain(beside, error.message)
    return {}


def _output(cell: LoadedRecord, sample: Sample, metric: MetricInfo | None) -> Output:
    scores = cell.scores.get(metric.name) if metric else None
    if scores is None or sample.example not in cell.ids:
        return Output(sample.response, None)
    score = float(scores[cell.ids.index(sample.example)])
    return Output(sample.response, None if score != score else score)  # noqa: PLR0124  NaN
