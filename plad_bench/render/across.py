"""The methods of several tasks in one table: their ranks on each, and the mean rank with its interval."""

from __future__ import annotations

from plad_bench.leaderboard.across_tasks import Panel, Standing
from plad_bench.records import text
from plad_bench.render import entries
from plad_bench.render.pieces import Column, Entry, Line, Name, Said, Section, Table, joined


def section(panel: Panel) -> Section:
    """The mean rank of each method over the tasks of a panel."""
    tasks = [Column((Name(task),), right=True, better="lower") for _, task in panel.boards]
    mean = [Column(("Mean of ", *entries.header(panel.metric)), right=True)] if panel.metric else []
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
            Entry((Said(of.row.access),)),
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
        table=Table(columns, body, tuple(entries.access(of.row) for of in panel.standings)),
        note=note,
    )


def _rank(standing: Standing, panel: Panel) -> str:
    interval = standing.interval(len(panel.standings))
    if interval is None:
        return text.number(standing.rank, 1)
    low, high = (text.number(end, 1) for end in interval)
    return f"{text.number(standing.rank, 1)} ({low} to {high})"
