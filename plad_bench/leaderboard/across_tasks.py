"""Several boards as one: the mean rank of a method over tasks.

Boards can be joined if they have the same teacher, student and number of seeds, and different tasks. Only methods
that are complete on all of them are ranked, anew among themselves: a rank depends on the other methods.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.board import Board, Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.statistics import LEVEL


@dataclass(frozen=True)
class Standing:
    """A method over the tasks of a panel."""

    row: Row
    ranks: tuple[int, ...]
    """The rank of its mean on each task, among the methods of the panel."""
    mean: float | None
    """Mean of the primary metric over the tasks; None unless all tasks rank by the same metric."""

    @property
    def rank(self) -> float:
        """The mean rank."""
        return sum(self.ranks) / len(self.ranks)

    def interval(self, methods: int) -> tuple[float, float] | None:
        """Student's t interval of the mean rank, with tasks as the sample, within 1 and the number of methods.

        None for one task, and where all tasks agree, since their spread then says nothing about other tasks.
        """
        if len(set(self.ranks)) < 2:
            return None
        half = float(statistics.quantile(len(self.ranks) - 1, LEVEL)) * float(np.std(self.ranks, ddof=1))
        half /= math.sqrt(len(self.ranks))
        return max(self.rank - half, 1.0), min(self.rank + half, float(methods))


@dataclass(frozen=True)
class Panel:
    """Boards that are joined."""

    teacher: str
    student: str
    seeds: int
    boards: tuple[tuple[str, str], ...]
    """Board and task."""
    metric: MetricInfo | None
    """The primary metric of all of them, if they share one."""
    standings: tuple[Standing, ...]
    """Sorted by mean rank, then by name."""
    partial: tuple[tuple[str, int], ...]
    """Methods that are incomplete on some board, with the number of boards where they are complete."""


def panels(boards: Iterable[Board]) -> list[Panel]:
    """Every set of two or more boards that can be joined."""
    together: dict[tuple[str, str, int, int], dict[str, tuple[str, Group]]] = defaultdict(dict)
    for board in boards:
        for group in board.groups:
            if group.pairs is None or len(group.rows) < 2:
                continue
            tuning = group.rows[0].tuning
            of_task = together[group.teacher, group.student, group.rows[0].asked, len(tuning.trials) if tuning else 0]
            before = of_task.get(group.task)
            # Of two boards of one task the one with more methods counts, so that no task counts twice.
            if before is None or len(group.rows) > len(before[1].rows):
                of_task[group.task] = (board.name, group)
    found = [_panel(key, [of_task[task] for task in sorted(of_task)]) for key, of_task in sorted(together.items())]
    return [panel for panel in found if len(panel.boards) > 1 and len(panel.standings) > 1]


def _panel(key: tuple[str, str, int, int], found: Sequence[tuple[str, Group]]) -> Panel:
    groups = [group for _, group in found]
    rows = [{row.identity: row for row in group.rows} for group in groups]
    everywhere = [identity for identity in rows[0] if all(identity in of for of in rows)]
    primaries = {group.primary for group in groups}
    metric = next(iter(primaries)) if len(primaries) == 1 else None
    ranks = [_ranks(group, everywhere) for group in groups]
    standings = [
        Standing(
            row=rows[0][identity],
            ranks=tuple(of[identity] for of in ranks),
            mean=sum(of[identity].estimates[metric.name].value for of in rows) / len(rows) if metric else None,
        )
        for identity in everywhere
    ]
    partial = {
        row.label: sum(identity in other for other in rows)
        for of in rows
        for identity, row in of.items()
        if identity not in everywhere
    }
    teacher, student, seeds, _ = key
    return Panel(
        teacher=teacher,
        student=student,
        seeds=seeds,
        boards=tuple((name, group.task) for name, group in found),
        metric=metric,
        standings=tuple(sorted(standings, key=lambda of: (of.rank, of.row.label))),
        partial=tuple(sorted(partial.items())),
    )


def _ranks(group: Group, wanted: Sequence[str]) -> dict[str, int]:
    """Ranks of some rows of a group among themselves, by their means."""
    return {row.identity: place for place, row in enumerate((r for r in group.rows if r.identity in wanted), start=1)}
