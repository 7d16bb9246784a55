"""The page over several boards: the setting and the best methods of each, and the methods' ranks across tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench.leaderboard.across_tasks import Panel, Standing, panels
from plad_bench.leaderboard.board import Board, Group
from plad_bench.records import text
from plad_bench.records.text import NONE
from plad_bench.render import page_model, pieces
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
        yield _across(panel)


def _boards(boards: Sequence[Board]) -> Section:
    body = tuple(_board(board, group) for board in boards for group in (board.groups or (None,)))
    columns = tuple(Column((head,)) for head in ("Board", "Setting", "Ranked by", "May be best"))
    return Section("boards", before=INTRODUCTION, table=Table((*columns, Column(("Methods",), right=True)), body))


def _board(board: Board, group: Group | None) -> tuple[Entry, ...]:
    link = Entry((Link(board.title, board.name),))
    if group is None:
        return link, Entry(("no records yet",)), *(Entry((NONE,)) for _ in range(3))
    steps: Line = (", ", pieces.Said(group.protocol["steps"], 20), " steps") if "steps" in group.protocol else ()
    models: Line = (Name(group.task), ", teacher ", Name(group.teacher), ", student ", Name(group.student))
    ranked = group.primary is not None and group.pairs is not None
    return (
        link,
        Entry((*models, f"; {page_model.counted(group)}", *steps)),
        Entry(page_model.header(group.primary) if ranked and group.primary else (NONE,)),
        Entry(_first(group)),
        Entry((str(len(group.rows)),), len(group.rows)),
    )


def _first(group: Group) -> Line:
    names: list[Line] = [(Name(row.label),) for row in group.rows if row.best]
    more: list[Line] = [(f"{len(names) - MOST} more",)] if len(names) > MOST else []
    return joined([*names[:MOST], *more]) or (NONE,)


def _across(panel: Panel) -> Section:
    tasks = [Column((Name(task),), right=True, better="lower") for _, task in panel.boards]
    mean = [Column(("Mean of ", *page_model.header(panel.metric)), right=True)] if panel.metric else []
    columns = (
        Column(("Method",)),
        Column(("Mean rank",), right=True, better="lower"),
        *tasks,
        *mean,
        Column(("Teacher access",)),
    )
    body = tuple(
        (
            Entry((Name(of.row.label),)),
            Entry((_rank(of, panel),), of.rank),
            *(Entry((str(rank),), rank) for rank in of.ranks),
            *(Entry((text.number(panel.metric.scale * (of.mean or 0.0), 1),), of.mean) for _ in mean if panel.metric),
            Entry((pieces.Said(of.row.access),)),
        )
        for of in panel.standings
    )
    seeds = f"{panel.seeds} seed{'s' if panel.seeds != 1 else ''}"
    title: Line = ("Across tasks: teacher ", Name(panel.teacher), ", student ", Name(panel.student), f", {seeds}")
    boards: list[Line] = [(Name(name),) for name in dict.fromkeys(name for name, _ in panel.boards)]
    note: Line = (
        "Boards: ",
        *joined(boards),
        ". Methods are ranked by their means, among those that are complete on all these boards. The interval of a "
        "mean rank treats the tasks as a sample (Student's t); there is none if all tasks agree. With few tasks it "
        "says little.",
    )
    if panel.partial:
        names = [(Name(label), f" ({n} of {len(panel.boards)})") for label, n in panel.partial]
        note = (*note, " Not complete on all boards: ", *joined(names), ".")
    return Section(
        "across",
        title,
        table=Table(columns, body, tuple(page_model.access(of.row) for of in panel.standings)),
        note=note,
    )


def _rank(standing: Standing, panel: Panel) -> str:
    interval = standing.interval(len(panel.standings))
    if interval is None:
        return text.number(standing.rank, 1)
    low, high = (text.number(end, 1) for end in interval)
    return f"{text.number(standing.rank, 1)} ({low} to {high})"
