"""The page over several boards: the setting and the best methods of each, and the methods' ranks across tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench.contract.training_budget import extent
from plad_bench.leaderboard.across_tasks import panels
from plad_bench.leaderboard.board import Board, Group
from plad_bench.records.text import NONE
from plad_bench.render import across, entries, page_model, pieces
from plad_bench.render.pieces import Column, Entry, Line, Link, Name, Section, Table, joined

TITLE = "Boards"
INTRODUCTION = (
    "Each board compares methods with the same task, teacher, student and budget. A method may be best if no other is "
    "significantly better."
)
MOST = 8
"""Methods that are named before the rest is counted."""


def sections(boards: Sequence[Board]) -> Iterator[Section]:
    """The parts of the page."""
    yield _boards(boards)
    for panel in panels(boards):
        yield across.section(panel)


def _boards(boards: Sequence[Board]) -> Section:
    body = tuple(_board(board, group) for board in boards for group in (board.groups or (None,)))
    columns = tuple(Column((head,)) for head in ("Board", "Setting", "Ranked by", "May be best"))
    return Section("boards", before=INTRODUCTION, table=Table((*columns, Column(("Methods",), right=True)), body))


def _board(board: Board, group: Group | None) -> tuple[Entry, ...]:
    link = Entry((Link(board.title, board.name),))
    if group is None:
        return link, Entry(("no records yet",)), *(Entry((NONE,)) for _ in range(3))
    length: Line = (", ", pieces.Said(extent(group.protocol), 60)) if "steps" in group.protocol else ()
    trials: Line = (f", {n} trials for each method",) if (n := group.protocol.get("tune")) else ()
    models: Line = (Name(group.task), ", teacher ", Name(group.teacher), ", student ", Name(group.student))
    ranked = group.primary is not None and group.pairs is not None
    return (
        link,
        Entry((*models, f"; {page_model.counted(group)}", *length, *trials)),
        Entry(entries.header(group.primary) if ranked and group.primary else (NONE,)),
        Entry(_first(group)),
        Entry((str(len(group.rows)),), len(group.rows)),
    )


def _first(group: Group) -> Line:
    names: list[Line] = [(Name(row.label),) for row in group.rows if row.best]
    more: list[Line] = [(f"{len(names) - MOST} more",)] if len(names) > MOST else []
    return joined([*names[:MOST], *more]) or (NONE,)
