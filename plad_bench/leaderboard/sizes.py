"""Groups of a board that differ only in the student, or only in the teacher, by its number of parameters."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from plad_bench.leaderboard.board import Group
from plad_bench.leaderboard.metric_info import MetricInfo


@dataclass(frozen=True)
class SizeSeries:
    """Groups with several sizes of one model."""

    varied: Literal["student", "teacher"]
    task: str
    other: str
    """The model that all of them share."""
    metric: MetricInfo
    groups: tuple[tuple[float, Group], ...]
    """By the number of parameters, ascending."""
    unknown: tuple[str, ...]
    """Models whose size no record has, such as those behind an endpoint."""


def series(groups: Iterable[Group]) -> list[SizeSeries]:
    """Every series with at least two different sizes, students first."""
    groups, found = tuple(groups), []
    kinds: tuple[Literal["student", "teacher"], ...] = ("student", "teacher")
    for varied in kinds:
        alike: dict[tuple[str, str, MetricInfo], list[Group]] = defaultdict(list)
        for group in groups:
            if group.primary is not None:
                other = group.teacher if varied == "student" else group.student
                alike[group.task, other, group.primary].append(group)
        for (task, other, metric), of in alike.items():
            known = sorted(((g.sizes[varied], g) for g in of if varied in g.sizes), key=lambda pair: pair[0])
            unknown = sorted(str(getattr(g, varied)) for g in of if varied not in g.sizes)
            if len({size for size, _ in known}) > 1:
                found.append(SizeSeries(varied, task, other, metric, tuple(known), tuple(unknown)))
    return found
