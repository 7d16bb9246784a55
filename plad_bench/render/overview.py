"""The top of a page with several groups: every task, teacher and student side by side."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from plad_bench.leaderboard.across_tasks import panels
from plad_bench.leaderboard.board import Board, Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.sizes import SizeSeries, series
from plad_bench.records import text
from plad_bench.records.text import NONE
from plad_bench.render import across, entries
from plad_bench.render.pieces import Column, Entry, Line, Name, Section, Table, joined


def sections(board: Board) -> Iterator[Section]:
    """The parts of the overview; none for a board with one group."""
    groups = [group for group in board.groups if group.primary is not None and group.rows]
    if len(groups) < 2:
        return
    by_task: dict[str, list[Group]] = {}
    for group in sorted(groups, key=_order):
        by_task.setdefault(group.task, []).append(group)
    if all(len(of) == 1 for of in by_task.values()):  # then tasks are side by side
        by_task = {"": groups}
    for task, of in by_task.items():
        yield _settings(task, of)
    for panel in panels([board]):
        yield across.section(panel)


def size_series(board: Board) -> list[SizeSeries]:
    """What is drawn of sizes."""
    return series(board.groups) if len(board.groups) > 1 else []


def _order(group: Group) -> tuple[object, ...]:
    """By task, then by size of teacher and student, unknown sizes last."""
    teacher, student = (group.sizes.get(kind, math.inf) for kind in ("teacher", "student"))
    return group.task, teacher, group.teacher, student, group.student


def _settings(task: str, groups: Sequence[Group]) -> Section:
    """The primary metric of every row in several groups, of one task if it is named."""
    rows: dict[str, list[Row | None]] = {}
    for k, group in enumerate(groups):
        for row in (*group.baselines, *group.rows):
            rows.setdefault(row.identity, [None] * len(groups))[k] = row
    ranked = {row.identity for group in groups for row in group.rows}
    order = sorted(rows, key=lambda identity: (identity in ranked, _position(identity, groups)))
    metrics = {group.primary for group in groups if group.primary}
    shared = metrics.pop() if len(metrics) == 1 else None
    columns = (Column(("Method",)), *(_column(group, groups, shared) for group in groups))
    body = tuple(
        (
            Entry((Name(next(row.label for row in rows[identity] if row)),)),
            *(_value(row, group) for row, group in zip(rows[identity], groups, strict=True)),
        )
        for identity in order
    )
    title: Line = ("All settings of ", Name(task)) if task else ("All tasks",)
    title = (*title, ": ", *entries.header(shared)) if shared else title
    return Section("settings", title, table=Table(columns, body), note=_note(groups))


def _position(identity: str, groups: Sequence[Group]) -> float:
    """The mean place of a row among those of its kind, in the groups that have it."""
    places = [
        place
        for group in groups
        for rows in (group.baselines, group.rows)
        for place, row in enumerate(rows)
        if row.identity == identity
    ]
    return sum(places) / len(places)


def _column(group: Group, groups: Sequence[Group], shared: MetricInfo | None) -> Column:
    """A group, named by what differs between the groups, with its metric unless they share one."""
    parts: list[Line] = []
    for kind in ("task", "teacher", "student"):
        if len({getattr(of, kind) for of in groups}) > 1:
            size = f" ({text.amount(group.sizes[kind])})" if kind in group.sizes else ""
            parts.append((f"{kind} ", Name(getattr(group, kind)), size))
    assert group.primary is not None  # noqa: S101  the caller saw to it
    own = [] if shared else [entries.header(group.primary)]
    return Column(joined([joined(parts), *own], ": "), right=True, better=group.primary.better or "")


def _value(row: Row | None, group: Group) -> Entry:
    metric = group.primary
    if row is None or metric is None or (estimate := row.estimates.get(metric.name)) is None:
        return Entry((NONE,))
    shown = entries.value(estimate, metric, entries.decimals(group, metric))
    return Entry((f"{shown} ({entries.starred(row)})" if row.rank else shown,), estimate.value)


def _note(groups: Sequence[Group]) -> Line:
    ranked = [group for group in groups if group.pairs is not None]
    best = Counter(row.label for group in ranked for row in group.rows if row.best)
    note: Line = ("Values of different columns are not tested against each other.",)
    if ranked:
        named: list[Line] = [(Name(label), f" in {n} of {len(ranked)}") for label, n in best.most_common()]
        note = (*note, " In brackets: the ranks within the column. May be the best: ", *joined(named), ".")
    if any(group.sizes for group in groups):
        note = (*note, " Sizes are numbers of parameters.")
    for kind in ("teacher", "student"):
        names = sorted({getattr(group, kind) for group in groups if kind not in group.sizes})
        if names and len({getattr(group, kind) for group in groups}) > 1:
            unknown: list[Line] = [(Name(name),) for name in names]
            note = (*note, f" No plot has the {kind} ", *joined(unknown), ", whose size is unknown.")
    return note
