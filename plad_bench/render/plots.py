"""The plots of a board: what each one shows. plot_drawing.py draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from plad_bench.leaderboard.board import Group, Row
from plad_bench.leaderboard.curves import Moment
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.sizes import SizeSeries
from plad_bench.records import text
from plad_bench.records.schema import TuningPart
from plad_bench.render import plot_layout as layout
from plad_bench.render.plot_drawing import (
    DASHES,
    HUGE,
    MOST,
    Dot,
    Mark,
    PlotLine,
    framed,
    line_plot,
    scatter_plot,
    short,
)
from plad_bench.render.plot_layout import WIDE, Label, Size
from plad_bench.render.templating import draw


def intervals(group: Group, size: Size | None = None) -> str | None:
    """Dots with intervals of the primary metric, a line for each method, baselines as vertical lines; None if no rows.

    Args:
        group: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    metric = group.primary
    if metric is None:
        return None
    of = size or WIDE
    rows = [Mark.of(row, metric, of.label) for row in group.rows if _finite(row, metric)]
    baselines = [Mark.of(row, metric, of.label) for row in group.baselines if _finite(row, metric)]
    hidden = max(len(rows) - MOST, 0)
    rows = rows[:MOST]
    if not rows:
        return None
    left = layout.pixel(max(110.0, 24 + max(layout.text_width(row.name) for row in rows))) if of.names_beside else 16.0
    right = of.width - 24.0 if of.names_beside else of.width - 16.0
    low, high = layout.near([end for row in rows for end in (row.low, row.high)], [row.value for row in baselines])
    axis = layout.padded(low, high, left, right)
    inside = [row for row in baselines if axis.low <= row.value <= axis.high]
    lanes = layout.lanes([(axis.at(row.value), layout.text_width(row.name)) for row in inside], left, of.width - 8)
    top = 48 + layout.LINE * (max((lane for _, lane in lanes), default=-1) + 1)
    lines = [
        {
            "x": axis.at(row.value),
            "y": 54 + layout.LINE * lane,
            "label": Label(at, 51 + layout.LINE * lane, row.name),
            "title": row.title,
        }
        for row, (at, lane) in zip(inside, lanes, strict=True)
    ]
    height = 26 if of.names_beside else 40
    dots = []
    for k, row in enumerate(rows):
        y = top + height * (k + 1) - 13
        name = Label(left - 12, y + 4, row.name, "end") if of.names_beside else Label(left, y - 10, row.name, "start")
        ends = {"x": axis.at(row.value), "low": axis.at(row.low), "high": axis.at(row.high)}
        dots.append({"y": y, **ends, "label": name, "title": row.title, "best": row.best})
    outside = [f"{row.name} {text.number(row.value, 1)}" for row in baselines if row not in inside]
    notes = [f"off the scale: {', '.join(outside)}"] if outside else []
    if hidden:
        notes.append(f"{hidden} more methods in the table")
    captions = [_name(metric), *(["; ".join(notes)] if notes and of.names_beside else notes)]
    return draw(
        "intervals.svg.j2",
        size=size,
        title=f"{text.clean(metric.name, of.label)}: mean and 95 % interval",
        width=of.width,
        **framed((left, top, right, top + height * len(rows)), captions),
        ticks=layout.ticks(axis),
        lines=lines,
        dots=dots,
    )


def cost(group: Group, size: Size | None = None) -> str | None:
    """The primary metric against device time, with the Pareto front; None unless two methods have a known cost.

    Args:
        group: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    metric = group.primary
    if metric is None or metric.better is None:
        return None
    costly = [row for row in group.rows if _finite(row, metric) and (row.cost.total_seconds or 0) > 0]
    if len(costly) < 2:
        return None
    of = size or WIDE
    rows = [Mark.of(row, metric, of.label) for row in costly]
    seconds = [row.cost.total_seconds or 0.0 for row in costly]
    log = max(seconds) / min(seconds) > 8
    front = _pareto(seconds, [row.value if metric.better == "higher" else -row.value for row in rows])
    return scatter_plot(
        of,
        size,
        title=f"{text.clean(metric.name, of.label)} against device time",
        rows=[replace(row, title=f"{row.title}; {text.seconds(s)}") for row, s in zip(rows, seconds, strict=True)],
        at=seconds,
        log=log,
        x_text=text.seconds,
        front=front,
        captions=["device time, with a share of the teacher's", f"{'log scale; ' if log else ''}line: Pareto front"],
        y_label=_name(metric),
    )


def diversity(group: Group, size: Size | None = None) -> str | None:
    """The mean of the primary metric over sampled responses against their diversity; None without samples.

    Args:
        group: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    primary = group.primary.name if group.primary else ""
    quality = next((s for s in group.sampled if s.kind == "avg" and s.metric == primary), None)
    diverse = next((s for s in group.sampled if s.kind == "set"), None)
    if quality is None or diverse is None:
        return None
    baselines = (row for row in group.baselines if row.method != "student")  # its samples are noise
    drawn = [row for row in (*group.rows, *baselines) if _finite(row, quality) and _finite(row, diverse)]
    if len(drawn) < 2:
        return None
    of = size or WIDE
    rows = [Mark.of(row, quality, of.label) for row in drawn]
    at = [diverse.scale * row.estimates[diverse.name].value for row in drawn]
    return scatter_plot(
        of,
        size,
        title=f"{text.clean(quality.name, of.label)} against diversity",
        rows=[
            replace(row, title=f"{row.title}; diversity {text.number(x, 1)}") for row, x in zip(rows, at, strict=True)
        ],
        at=at,
        captions=[_name(diverse)],
        y_label=_name(quality),
    )


def tuning(group: Group, size: Size | None = None) -> str | None:
    """The best score so far of every tuned method by the number of trials; None if no method was tuned.

    Args:
        group: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    metric = group.primary
    if metric is None or metric.better is None:
        return None
    trails = [
        (row, trail)
        for row in (*group.rows, *group.baselines)
        if row.tuning and row.tuning.metric == metric.name and (trail := _best_so_far(row.tuning, metric))
    ]
    if not trails:
        return None
    of = size or WIDE
    most = max(2, *(len(row.tuning.trials) for row, _ in trails if row.tuning))
    lines = []
    for row, trail in trails:
        points = trail[:1]
        for number, score in trail[1:]:
            points += [(number, points[-1][1]), (number, score)]
        number, score = trail[-1]
        title = f"{text.clean(row.label)}: {text.number(score, 2)} in trial {number}"
        dot = Dot(number, score, score, score, title)
        lines.append(PlotLine(short(row.label, of.label), row.best, (*points, (most, score)), (dot,)))
    return line_plot(
        of,
        size,
        title=f"{text.clean(metric.name, of.label)}: best trial so far",
        lines=lines,
        x=(1, most),
        x_ticks=[(k, str(k)) for k in range(1, most + 1)],
        captions=["trial, on the validation split"],
        y_label=_name(metric),
    )


def sizes(of_series: SizeSeries, size: Size | None = None) -> str:
    """The primary metric of each row against the size of the student, or of the teacher.

    Args:
        of_series: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    of, metric = size or WIDE, of_series.metric
    found: dict[str, list[tuple[float, Mark]]] = {}
    for parameters, group in of_series.groups:
        baselines = (row for row in group.baselines if row.method != "student")
        for row in (*group.rows, *baselines):
            if _finite(row, metric):
                found.setdefault(row.identity, []).append((parameters, Mark.of(row, metric, of.label)))
    lines = [
        PlotLine(
            path[0][1].name,
            all(mark.best for _, mark in path),
            tuple((n, mark.value) for n, mark in path),
            tuple(Dot(n, m.value, m.low, m.high, f"{m.title}; {text.amount(n)}") for n, m in path),
        )
        for path in [path for path in found.values() if len(path) > 1][:MOST]
    ]
    ends = sorted({parameters for parameters, _ in of_series.groups})
    other = "teacher" if of_series.varied == "student" else "student"
    left_out = [f"size unknown: {', '.join(text.clean(name, of.label) for name in of_series.unknown)}"]
    return line_plot(
        of,
        size,
        title=f"{text.clean(metric.name, of.label)} by size of the {of_series.varied}",
        lines=lines,
        x=(ends[0] / 1.15, ends[-1] * 1.15),
        log=True,
        x_ticks=[(n, text.amount(n)) for n in ends],
        captions=[
            f"parameters of the {of_series.varied}, log scale",
            f"task {text.clean(of_series.task, of.label)}, {other} {text.clean(of_series.other, of.label)}",
            *(left_out if of_series.unknown else []),
        ],
        y_label=_name(metric),
    )


def against_tokens(group: Group, size: Size | None = None) -> str | None:
    """The primary metric during training, against trained tokens; None if no method was evaluated during training."""
    return _curves(group, size, lambda p: p.tokens, "tokens trained", text.amount)


def against_time(group: Group, size: Size | None = None) -> str | None:
    """As `against_tokens`, against device time."""
    return _curves(
        group, size, lambda p: p.seconds, "device time of training, with a share of the teacher's", text.seconds
    )


def against_money(group: Group, size: Size | None = None) -> str | None:
    """As `against_tokens`, against money; None without prices."""
    currency = text.clean(group.prices.currency, 12) if group.prices else ""
    return _curves(group, size, lambda p: p.money, f"money ({currency}), as if the cell were alone", text.money)


def _curves(
    group: Group,
    size: Size | None,
    cost: Callable[[Moment], float | None],
    caption: str,
    in_words: Callable[[float], str],
) -> str | None:
    """A line for each method from the SFT initialisation to the end of training, with the range of seeds as a band.

    Args:
        group: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
        cost: of a point.
        caption: of the axis of costs.
        in_words: a cost as text.
    """
    metric, of = group.primary, size or WIDE
    if metric is None:
        return None
    scale, lines = metric.scale, list[PlotLine]()
    for curve in group.curves[:MOST]:
        at = [(c, p) for p in curve.points if (c := cost(p)) is not None and abs(c) < HUGE]
        known = [(c, p) for c, p in at if max(abs(p.estimate.value), abs(p.low), abs(p.high)) < HUGE]
        if len(known) < 2:
            continue
        dots = []
        for c, p in known:
            value = scale * p.estimate.value
            title = f"{text.clean(curve.label)} at {p.percent} %, {in_words(c)}: {text.number(value, 2)}"
            dots.append(Dot(c, value, value, value, title))
        low, high = [(c, scale * p.low) for c, p in known], [(c, scale * p.high) for c, p in known]
        points = tuple((dot.x, dot.y) for dot in dots)
        lines.append(
            PlotLine(
                short(curve.label, of.label),
                curve.best,
                points,
                tuple(dots),
                band=(*low, *reversed(high)),
                dash=DASHES[len(lines) % len(DASHES)],
            )
        )
    if not lines:
        return None
    costs = [x for line in lines for x, _ in line.points]
    return line_plot(
        of,
        size,
        title=f"{text.clean(metric.name, of.label)} during training",
        lines=lines,
        x=(min(0.0, *costs), max(costs) or 1.0),
        x_text=in_words,
        captions=[caption, "band: range over seeds"],
        y_label=_name(metric),
    )


ALL: tuple[tuple[str, str, Callable[..., str | None]], ...] = (
    ("Mean and interval of each method", "quality", intervals),
    ("Mean against device time", "cost", cost),
    ("Mean of sampled responses against their diversity", "diversity", diversity),
    ("Mean during training against tokens", "tokens", against_tokens),
    ("Mean during training against device time", "time", against_time),
    ("Mean during training against money", "money", against_money),
    ("Best trial so far of each method", "tuning", tuning),
)
"""Every plot of a group: its title, the name of its file, and what draws it."""


def _best_so_far(tuning: TuningPart, metric: MetricInfo) -> list[tuple[int, float]]:
    """(number from 1, score in the units of the page) of each trial that is better than all before it."""
    sign = 1 if metric.better == "higher" else -1
    trail: list[tuple[int, float]] = []
    for number, trial in enumerate(tuning.trials, start=1):
        if trial.score is None or abs(trial.score) >= HUGE:
            continue
        score = metric.scale * trial.score
        if not trail or sign * score > sign * trail[-1][1]:
            trail.append((number, score))
    return trail


def _pareto(cost: Sequence[float], goodness: Sequence[float]) -> list[int]:
    """Indices of the points on the Pareto front, by cost."""
    front: list[int] = []
    for k in sorted(range(len(cost)), key=lambda k: (cost[k], -goodness[k])):
        if not front or goodness[k] > goodness[front[-1]]:
            front.append(k)
    return front


def _name(metric: MetricInfo) -> str:
    unit = f" ({text.clean(metric.unit, 20)})" if metric.unit else ""
    better = f", {metric.better} is better" if metric.better else ""
    return f"{text.clean(metric.name, 60)}{unit}{better}"


def _finite(row: Row, metric: MetricInfo) -> bool:
    e = row.estimates.get(metric.name)
    return e is not None and abs(e.value) < HUGE
