"""Two methods compared, paired by seed and example, with the statistics of the board."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from plad_bench.contract.errors import UsageError
from plad_bench.contract.suggestions import near_matches, suggestion
from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.labels import labels
from plad_bench.leaderboard.loading import asked_seeds, read
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.statistics import Pairwise
from plad_bench.plan.boardfile import BoardFile
from plad_bench.records.storage import RecordError, is_prompt
from plad_bench.records.validation import LoadedRecord, Problem, aligned, matrix, scored


@dataclass(frozen=True)
class Side:
    """A method of a board, as the user named it, with its done cells by group."""

    board: str
    label: str
    groups: Mapping[str, Sequence[LoadedRecord]]
    settings: BoardFile
    problems: tuple[Problem, ...]
    """Files of that board that were left out."""


@dataclass(frozen=True)
class Comparison:
    """The difference by one metric on one task, teacher and student. Values as recorded: a share is 0 to 1."""

    task: str
    teacher: str
    student: str
    metric: MetricInfo
    a: float
    b: float
    difference: float
    """a - b."""
    low: float
    high: float
    """Interval of the difference at the level of its test, 95 % for a single one; NaN if the data gives none."""
    p: float
    p_holm: float
    """Adjusted over all comparisons made together."""
    minimum: float
    """Minimum detectable difference of a test among all those made together."""
    seeds: int
    examples: int

    @property
    def verdict(self) -> str:
        """Of a: better, worse, different (the metric has no direction), tie, or undecided (a single seed: a trial)."""
        if self.seeds < 2:
            return "undecided"
        if not self.p_holm < 1 - statistics.LEVEL:
            return "tie"
        if self.metric.better is None:
            return "different"
        return "better" if (self.difference > 0) == (self.metric.better == "higher") else "worse"


def side(directory: Path, label: str) -> Side:
    """A method of a board by its label there.

    Raises:
        UsageError: if the board has no such method with a finished cell.
    """
    cells = read(directory)
    groups: dict[str, list[LoadedRecord]] = {}
    known: set[str] = set()
    for key, of in cells.groups.items():
        named = labels(of)
        done = [cell for cell in of if cell.record.status == "done"]
        known |= {named[cell.method] for cell in done}
        asked = asked_seeds(of, cells.settings)
        mine = [cell for cell in done if named[cell.method] == label]
        if kept := mine if _fixed(mine) else [cell for cell in mine if cell.record.seed in asked]:
            groups[key] = kept
    if not groups:
        raise UsageError(
            f"board {directory.name} has no finished method {label!r}",
            suggestion(near_matches(label, known), sorted(known))
            if known or not cells.groups
            else "It has no finished method: trials, from runs with --limit, are not compared.",
        )
    return Side(directory.name, label, groups, cells.settings, cells.sorted_problems)


def compare(
    a: Side, b: Side, metrics: Sequence[str], complain: Callable[[LoadedRecord, str], None], task: str | None = None
) -> list[Comparison]:
    """The difference a - b on every task, teacher and student that both have.

    Args:
        a: one method.
        b: the other, of the same board or another.
        metrics: the metrics to compare; without any, the one that ranks a's board.
        complain: called for a cell with unusable scores; its seed is left out.
        task: the only task to compare on.

    Raises:
        UsageError: if both share nothing, their examples or a metric's meaning differ, or one has no value.
    """
    shared = sorted(
        key for key in a.groups.keys() & b.groups.keys() if task in {None, a.groups[key][0].record.task.selector}
    )
    if not shared:
        where = f" of task {task}" if task is not None else ""
        raise UsageError(
            f"{a.board}:{a.label} and {b.board}:{b.label} have no teacher and student{where} in common",
            "Compare methods of one task, teacher and student.",
        )
    asked: list[tuple[list[LoadedRecord], list[LoadedRecord], MetricInfo]] = []
    for key in shared:
        ours, theirs = _alike(*_paired(_read(a, key, complain), _read(b, key, complain)))
        names = metrics or [_primary(ours, a.settings)]
        asked += [(ours, theirs, _metric([*ours, *theirs], name)) for name in names]
    measured = [
        statistics.pairwise(statistics.moments([matrix(cells, metric.name) for cells in two])) for *two, metric in asked
    ]
    adjusted, tests = statistics.holm(np.array([pairs.p(0, 1) for pairs in measured]))
    return [
        _comparison(ours, metric, pairs, float(p), tests=len(asked), level=1 - (1 - statistics.LEVEL) / among)
        for (ours, _, metric), pairs, p, among in zip(asked, measured, adjusted, tests, strict=True)
    ]


def protocols(a: Side, b: Side) -> dict[str, tuple[object, object]]:
    """Protocol settings in which the two differ, on any task, with both values."""
    differing: dict[str, tuple[object, object]] = {}
    for key in sorted(a.groups.keys() & b.groups.keys()):
        ours, theirs = (of.groups[key][0].record.protocol for of in (a, b))
        for name in sorted(ours.keys() | theirs.keys()):
            if ours.get(name) != theirs.get(name):
                differing[name] = (ours.get(name), theirs.get(name))
    return differing


def _fixed(cells: Sequence[LoadedRecord]) -> bool:
    """Whether these cells are a baseline with one record, which has no seed."""
    return len(cells) == 1 and cells[0].record.is_baseline


def _read(of: Side, group: str, complain: Callable[[LoadedRecord, str], None]) -> list[LoadedRecord]:
    read = []
    for cell in sorted(of.groups[group], key=lambda cell: cell.record.seed):
        try:
            read.append(scored(cell))
        except RecordError as error:
            complain(cell, error.message)
    if not read:
        raise UsageError(f"no record of {of.label} can be used", "Restore the files that were left out.")
    return read


def _paired(a: list[LoadedRecord], b: list[LoadedRecord]) -> tuple[list[LoadedRecord], list[LoadedRecord]]:
    """The cells of the seeds that both have; a fixed baseline counts for every seed."""
    if _fixed(a) or _fixed(b):
        return a, b
    seeds = {cell.record.seed for cell in a} & {cell.record.seed for cell in b}
    if not seeds:
        names = " and ".join(cells[0].record.method.selector for cells in (a, b))
        raise UsageError(f"{names} share no seed", "Differences are paired: run both with the same seeds.")
    first, second = ([cell for cell in cells if cell.record.seed in seeds] for cells in (a, b))
    return first, second


def _alike(a: list[LoadedRecord], b: list[LoadedRecord]) -> tuple[list[LoadedRecord], list[LoadedRecord]]:
    """The same cells with their examples in one order, if the examples are the same."""
    order = a[0].ids
    for cell in (*a, *b):
        if differing := sum(map(is_prompt, set(order) ^ set(cell.ids))):
            raise UsageError(
                f"{a[0].record.cell} and {cell.record.cell} were scored on different examples: "
                f"{differing} examples belong to only one of them",
                "Only scores of the same examples can be compared.",
            )
    first, second = ([aligned(cell, order) for cell in cells] for cells in (a, b))
    return first, second


def _primary(cells: Sequence[LoadedRecord], settings: BoardFile) -> str:
    """The primary metric of a board with these cells."""
    if settings.primary:
        return settings.primary
    recorded = {name: part for name, part in cells[0].record.metrics.items() if part.point is None}
    names = [name for name in settings.metrics or sorted(recorded) if name in recorded and recorded[name].better]
    if not names:
        raise UsageError("no metric of this board has a direction", "Choose one with --metric.")
    return names[0]


def _metric(cells: Sequence[LoadedRecord], name: str) -> MetricInfo:
    """The metric with that name, which all cells have with the same meaning."""
    for cell in cells:
        if name not in cell.scores or np.isnan(cell.scores[name]).all():
            have = sorted(cell.scores)
            raise UsageError(f"{cell.record.cell} has no value of {name!r}", suggestion(near_matches(name, have), have))
    declared = {MetricInfo(name, m.better, m.unit) for cell in cells for m in [cell.record.metrics[name]]}
    if len(declared) > 1:
        raise UsageError(
            f"the records declare {name} with different directions or units",
            "Score them with one version of the metric.",
        )
    return declared.pop()


def _comparison(  # noqa: PLR0917  two numbers of tests
    a: Sequence[LoadedRecord], metric: MetricInfo, pairs: Pairwise, p_holm: float, tests: int, level: float
) -> Comparison:
    """The difference of one pair of methods, its interval at the level of the test among the `tests` made together."""
    difference, half = float(pairs.difference[0, 1]), pairs.half_width(0, 1, level)
    record = a[0].record
    return Comparison(
        task=record.task.selector,
        teacher=record.teacher.selector,
        student=record.student.selector,
        metric=metric,
        a=float(pairs.moments.mean[0]),
        b=float(pairs.moments.mean[1]),
        difference=difference,
        low=difference - half,
        high=difference + half,
        p=pairs.p(0, 1),
        p_holm=p_holm,
        minimum=pairs.minimum(0, 1, tests),
        seeds=pairs.moments.seeds,
        examples=pairs.moments.examples,
    )
