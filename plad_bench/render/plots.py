"""Plots of a board as SVG, drawn by templates so that their bytes depend on no plotting library.

Colours follow the reader's light or dark mode. Text from records is escaped by the template.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from typing import Any, TypeAlias

from plad_bench.leaderboard.board import Group, Row
from plad_bench.leaderboard.curves import Moment
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.sizes import SizeSeries
from plad_bench.records import text
from plad_bench.records.schema import TuningPart
from plad_bench.render.templating import draw


@dataclass(frozen=True)
class Size:
    """How a plot is laid out for a width of the page."""

    kind: str
    """The class of the picture, by which the page shows the one that fits."""
    width: int
    names_beside: bool
    """Whether names stand beside their intervals, or above them."""
    label: int
    """The most characters of a name."""


WIDE = Size("wide", 760, names_beside=True, label=32)
NARROW = Size("narrow", 340, names_beside=False, label=24)
MOST = 40
"""Rows of the interval plot, and points of the cost plot that can get a label."""
_CHARACTER = 7.3
"""Width reserved for a character of 12 pixels: more than common sans-serif fonts need."""
_LINE = 15
_HUGE = 1e100
"""Larger numbers are left out of a plot."""

_TIMES = [f * unit for unit in (1e-3, 1e-2, 0.1) for f in (1, 2, 5)]
_TIMES += [f * unit for unit in (1.0, 60.0) for f in (1, 2, 5, 10, 20, 30)]
_TIMES += [f * unit for unit in (3600.0, 3.6e4, 3.6e5, 3.6e6, 3.6e7) for f in (1, 2, 5)]
"""Round durations in seconds."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True)
class Mark:
    """A row in the units of the page."""

    name: str
    title: str
    value: float
    low: float
    high: float
    best: bool

    @classmethod
    def of(cls, row: Row, metric: MetricInfo, most: int) -> Mark:
        """The row's estimate of a metric, with a name of at most so many characters; an interval may be the value."""
        e, scale = row.estimates[metric.name], metric.scale
        low, high = (e.low, e.high) if abs(e.low) < _HUGE and abs(e.high) < _HUGE else (e.value, e.value)
        first, value, last = (text.number(scale * v, 2) for v in (e.low, e.value, e.high))
        title = f"{text.clean(row.label)}: {value}, 95 % interval {first} to {last} ({e.label})"
        return cls(_short(row.label, most), title, scale * e.value, scale * low, scale * high, row.best)


@dataclass(frozen=True)
class Point:
    """A method in the cost plot, in pixels."""

    x: float
    y: float
    low: float
    high: float
    title: str
    best: bool
    """Whether it lies on the Pareto front."""


@dataclass(frozen=True)
class Label:
    """A text in a plot."""

    x: float
    y: float
    text: str
    anchor: str = "middle"
    leader: Point | None = None
    """The point that a line connects it with; None if it stands beside its point."""


@dataclass(frozen=True)
class Axis:
    """A scale from values to pixels: linear, or logarithmic for seconds."""

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def at(self, value: float) -> float:
        """Pixel of a value, one decimal."""
        low, high, v = (
            (math.log10(x) for x in (self.low, self.high, value)) if self.log else (self.low, self.high, value)
        )
        return _pixel(self.start + (v - low) / (high - low) * (self.end - self.start))

    def ticks(self) -> list[tuple[float, float]]:
        """(value, pixel) of about five round values."""
        if self.log:
            values = _TIMES if self.high / self.low < 200 else _TIMES[::3]
        else:
            step = _round_step((self.high - self.low) / 5)
            values = [
                step * k for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)
            ]
        return [(v, self.at(v)) for v in values if self.low * (1 - 1e-9) <= v <= self.high * (1 + 1e-9) or v == 0]


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
    left = _pixel(max(110.0, 24 + max(_width(row.name) for row in rows))) if of.names_beside else 16.0
    right = of.width - 24.0 if of.names_beside else of.width - 16.0
    low, high = _near([end for row in rows for end in (row.low, row.high)], [row.value for row in baselines])
    axis = _padded(low, high, left, right)
    inside = [row for row in baselines if axis.low <= row.value <= axis.high]
    lanes = _lanes([(axis.at(row.value), _width(row.name)) for row in inside], left, of.width - 8)
    top = 48 + _LINE * (max((lane for _, lane in lanes), default=-1) + 1)
    lines = [
        {
            "x": axis.at(row.value),
            "y": 54 + _LINE * lane,
            "label": Label(at, 51 + _LINE * lane, row.name),
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
    notes = [f"off the scale: {row.name} {text.number(row.value, 1)}" for row in baselines if row not in inside]
    if hidden:
        notes.append(f"{hidden} more methods in the table")
    captions = [_name(metric), *(["; ".join(notes)] if notes and of.names_beside else notes)]
    bottom = top + height * len(rows)
    return draw(
        "intervals.svg.j2",
        size=size,
        title=f"{text.clean(metric.name, of.label)}: mean and 95 % interval",
        width=of.width,
        height=bottom + 30 + 18 * len(captions),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        ticks=_ticks(axis),
        middle=_pixel((left + right) / 2),
        captions=captions,
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
    return _scatter(
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
    return _scatter(
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
    most = max(len(row.tuning.trials) for row, _ in trails if row.tuning)
    room = max(_width(_short(row.label, of.label)) for row, _ in trails)
    left, right, top = 56.0, _pixel(of.width - 24 - room), 60.0
    bottom = max(400.0, top + _LINE * len(trails))
    x = Axis(1, max(most, 2), left, right)
    values = [score for _, trail in trails for _, score in trail]
    y = _padded(min(values), max(values), bottom, top)
    names = _spread([y.at(trail[-1][1]) for _, trail in trails], top, bottom)
    lines = []
    for (row, trail), label in zip(trails, names, strict=True):
        points = [(x.at(trail[0][0]), y.at(trail[0][1]))]
        for number, score in trail[1:]:
            points += [(x.at(number), points[-1][1]), (x.at(number), y.at(score))]
        found = points[-1]
        points.append((right, found[1]))
        number, score = trail[-1]
        lines.append(
            {
                "points": " ".join(f"{a},{b}" for a, b in points),
                "x": found[0],
                "y": found[1],
                "label": label,
                "name": _short(row.label, of.label),
                "title": f"{text.clean(row.label)}: {text.number(score, 2)} in trial {number}",
                "best": row.best,
            }
        )
    return draw(
        "tuning.svg.j2",
        size=size,
        title=f"{text.clean(metric.name, of.label)}: best trial so far",
        width=of.width,
        height=bottom + 48,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=_apart([{"at": x.at(k), "text": str(k)} for k in range(1, most + 1)]),
        y_ticks=_ticks(y),
        middle=_pixel((left + right) / 2),
        captions=["trial, on the validation split"],
        y_label=_name(metric),
        lines=lines,
    )


def _scatter(
    of: Size,
    size: Size | None,
    *,
    title: str,
    rows: Sequence[Mark],
    at: Sequence[float],
    log: bool = False,
    x_text: Callable[[float], str] | None = None,
    front: Sequence[int] = (),
    captions: Sequence[str],
    y_label: str,
) -> str:
    """Marks with their intervals at given places, labelled where there is room, and a front through some of them."""
    left, right, top, bottom = 56.0, of.width - 24.0, 60.0, 400.0
    if log:
        x = Axis(min(at) / 1.6, max(at) * 1.6, left, right, log=True)
    else:
        x = _padded(min(at), max(at), left, right, share=0.15)
    y = _padded(min(row.low for row in rows), max(row.high for row in rows), bottom, top)
    points = [
        Point(x.at(v), y.at(row.value), y.at(row.low), y.at(row.high), row.title, k in front if front else row.best)
        for k, (row, v) in enumerate(zip(rows, at, strict=True))
    ]
    order = [*front, *(k for k in range(len(rows)) if k not in front)][:MOST]
    line = [(points[k].x, points[k].y) for k in front[:1]]
    for k in front[1:]:  # a staircase: there is no method between two neighbours
        line += [(points[k].x, line[-1][1]), (points[k].x, points[k].y)]
    line += [(right, line[-1][1])] if line else []
    ticks = [{"at": pixel, "text": x_text(v)} for v, pixel in x.ticks()] if x_text else _ticks(x)
    return draw(
        "scatter.svg.j2",
        size=size,
        title=title,
        width=of.width,
        height=bottom + 30 + 18 * len(captions),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=_apart(ticks),
        y_ticks=_ticks(y),
        middle=_pixel((left + right) / 2),
        captions=captions,
        y_label=y_label,
        points=points,
        labels=_placed([(points[k], rows[k].name) for k in order], points, line, (left + 4, top, right, bottom)),
        front=" ".join(f"{a},{b}" for a, b in line),
    )


def sizes(of_series: SizeSeries, size: Size | None = None) -> str:
    """The primary metric of each row against the size of the student, or of the teacher.

    Args:
        of_series: what to draw.
        size: for a plot within a page, whose style it takes; None for a file of its own.
    """
    of, metric = size or WIDE, of_series.metric
    found: dict[str, list[tuple[float, Row]]] = {}
    for parameters, group in of_series.groups:
        baselines = (row for row in group.baselines if row.method != "student")
        for row in (*group.rows, *baselines):
            if _finite(row, metric):
                found.setdefault(row.identity, []).append((parameters, row))
    paths = [path for path in found.values() if len(path) > 1][:MOST]
    marks = [[(parameters, Mark.of(row, metric, of.label)) for parameters, row in path] for path in paths]
    ends = sorted({parameters for parameters, _ in of_series.groups})
    room = max((_width(path[0][1].name) for path in marks), default=0.0)
    left, right, top = 56.0, _pixel(of.width - 24 - room), 60.0
    bottom = max(400.0, top + _LINE * len(marks))
    x = Axis(ends[0] / 1.15, ends[-1] * 1.15, left, right, log=True)
    bounds = [end for path in marks for _, mark in path for end in (mark.low, mark.high)] or [0.0, 1.0]
    y = _padded(min(bounds), max(bounds), bottom, top)
    names = _spread([y.at(path[-1][1].value) for path in marks], top, bottom)
    lines = [
        {
            "points": " ".join(f"{x.at(parameters)},{y.at(mark.value)}" for parameters, mark in path),
            "dots": [
                Point(x.at(n), y.at(m.value), y.at(m.low), y.at(m.high), f"{m.title}; {text.amount(n)}", best=m.best)
                for n, m in path
            ],
            "end": (x.at(path[-1][0]), y.at(path[-1][1].value)),
            "label": label,
            "name": path[0][1].name,
            "best": all(mark.best for _, mark in path),
        }
        for path, label in zip(marks, names, strict=True)
    ]
    other = "teacher" if of_series.varied == "student" else "student"
    left_out = [f"size unknown: {', '.join(text.clean(name, of.label) for name in of_series.unknown)}"]
    captions = [
        f"parameters of the {of_series.varied}, log scale",
        f"task {text.clean(of_series.task, of.label)}, {other} {text.clean(of_series.other, of.label)}",
        *(left_out if of_series.unknown else []),
    ]
    return draw(
        "sizes.svg.j2",
        size=size,
        title=f"{text.clean(metric.name, of.label)} by size of the {of_series.varied}",
        width=of.width,
        height=bottom + 30 + 18 * len(captions),
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=_apart([{"at": x.at(n), "text": text.amount(n)} for n in ends]),
        y_ticks=_ticks(y),
        middle=_pixel((left + right) / 2),
        captions=captions,
        y_label=_name(metric),
        lines=lines,
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


_DASHES = ("none", "7 3", "2 3", "9 3 2 3")


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
    metric, drawn = group.primary, []
    for curve in group.curves[:MOST]:
        at = [(c, p) for p in curve.points if (c := cost(p)) is not None and abs(c) < _HUGE]
        known = [(c, p) for c, p in at if max(abs(p.estimate.value), abs(p.low), abs(p.high)) < _HUGE]
        if len(known) > 1:
            drawn.append((curve, known))
    if metric is None or not drawn:
        return None
    of, scale = size or WIDE, metric.scale
    room = max(_width(_short(curve.label, of.label)) for curve, _ in drawn)
    left, right, top = 56.0, _pixel(of.width - 24 - room), 60.0
    bottom = max(400.0, top + _LINE * len(drawn))
    costs = [c for _, known in drawn for c, _ in known]
    x = Axis(min(0.0, *costs), max(costs) or 1.0, left, right)
    y = _padded(
        min(scale * p.low for _, known in drawn for _, p in known),
        max(scale * p.high for _, known in drawn for _, p in known),
        bottom,
        top,
    )
    names = _spread([y.at(scale * known[-1][1].estimate.value) for _, known in drawn], top, bottom)
    lines = []
    for k, ((curve, known), label) in enumerate(zip(drawn, names, strict=True)):
        dots = [
            {
                "x": x.at(c),
                "y": y.at(scale * p.estimate.value),
                "title": f"{text.clean(curve.label)} at {p.percent} %, {in_words(c)}: "
                f"{text.number(scale * p.estimate.value, 2)}",
            }
            for c, p in known
        ]
        low, high = ([(x.at(c), y.at(scale * end)) for c, end in ends] for ends in _ends(known))
        lines.append(
            {
                "points": _path((dot["x"], dot["y"]) for dot in dots),
                "band": _path([*low, *reversed(high)]),
                "dots": dots,
                "dash": _DASHES[k % len(_DASHES)],
                "label": label,
                "name": _short(curve.label, of.label),
                "best": curve.best,
            }
        )
    return draw(
        "curve.svg.j2",
        size=size,
        title=f"{text.clean(metric.name, of.label)} during training",
        width=of.width,
        height=bottom + 66,
        left=left,
        right=right,
        top=top,
        bottom=bottom,
        x_ticks=_apart([{"at": at, "text": in_words(value)} for value, at in x.ticks()]),
        y_ticks=_ticks(y),
        middle=_pixel((left + right) / 2),
        captions=[caption, "band: range over seeds"],
        y_label=_name(metric),
        lines=lines,
    )


def _ends(known: Sequence[tuple[float, Moment]]) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """(cost, value) of the lower and of the upper ends of a band."""
    return [(c, p.low) for c, p in known], [(c, p.high) for c, p in known]


def _path(places: Iterable[tuple[Any, Any]]) -> str:
    return " ".join(f"{a},{b}" for a, b in places)


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


# --------------------------------------------------------------------------------------------------------- geometry


def _best_so_far(tuning: TuningPart, metric: MetricInfo) -> list[tuple[int, float]]:
    """(number from 1, score in the units of the page) of each trial that is better than all before it."""
    sign = 1 if metric.better == "higher" else -1
    trail: list[tuple[int, float]] = []
    for number, trial in enumerate(tuning.trials, start=1):
        if trial.score is None or abs(trial.score) >= _HUGE:
            continue
        score = metric.scale * trial.score
        if not trail or sign * score > sign * trail[-1][1]:
            trail.append((number, score))
    return trail


def _spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """Heights of labels near these places, a line apart and within bounds that have room for them."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    found = dict.fromkeys(order, 0.0)
    at = low - _LINE
    for k in order:
        at = found[k] = max(places[k], at + _LINE)
    at = high + _LINE
    for k in reversed(order):
        at = found[k] = min(found[k], at - _LINE)
    return [_pixel(found[k]) for k in range(len(places))]


def _pareto(cost: Sequence[float], goodness: Sequence[float]) -> list[int]:
    """Indices of the points on the Pareto front, by cost."""
    front: list[int] = []
    for k in sorted(range(len(cost)), key=lambda k: (cost[k], -goodness[k])):
        if not front or goodness[k] > goodness[front[-1]]:
            front.append(k)
    return front


def _near(ends: Sequence[float], baselines: Sequence[float]) -> tuple[float, float]:
    """The range of the methods, extended to baselines as long as the methods keep about half of the plot."""
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    for value in sorted(baselines, key=lambda v: max(low - v, v - high)):
        if max(high, value) - min(low, value) <= 2.2 * span:
            low, high = min(low, value), max(high, value)
    return low, high


def _padded(low: float, high: float, start: float, end: float, share: float = 0.06) -> Axis:
    span = high - low or abs(high) or 1.0
    return Axis(low - share * span, high + share * span, start, end)


def _lanes(marks: Sequence[tuple[float, float]], left: float, right: float) -> list[tuple[float, int]]:
    """(centre, lane) of labels at given places and widths, so that none in a lane overlap."""
    taken: list[list[tuple[float, float]]] = []
    placed = []
    for x, width in marks:
        centre = _pixel(min(max(x, left + width / 2), right - width / 2))
        a, b = centre - width / 2 - 5, centre + width / 2 + 5
        lane = next((k for k, lane in enumerate(taken) if all(b < c or a > d for c, d in lane)), len(taken))
        taken += [[]] if lane == len(taken) else []
        taken[lane].append((a, b))
        placed.append((centre, lane))
    return placed


def _placed(
    wanted: Iterable[tuple[Point, str]], points: Sequence[Point], line: Sequence[tuple[float, float]], frame: Box
) -> list[Label]:
    """Labels for points, each at the nearest free place; a point without free place nearby has only its tooltip."""
    dots = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in points]
    bars = [(p.x - 1, min(p.low, p.high), p.x + 1, max(p.low, p.high)) for p in points]
    steps = [(min(a, c), min(b, d) - 1, max(a, c), max(b, d) + 1) for (a, b), (c, d) in pairwise(line)]
    labels: list[Label] = []
    boxes: list[Box] = []
    for point, name in wanted:
        width = _width(name)
        reach = (point.x - width - 12, point.y - 85, point.x + width + 12, point.y + 86)
        near, only = ([box for box in of if _overlap(box, reach)] for of in ([*dots, *bars, *steps], dots))
        for obstacles, (dx, dy, anchor) in product((near, only), _places()):
            x, y = point.x + dx, point.y + dy
            start = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
            box = (start - 2, y - 11, start + width + 2, y + 4)
            within = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if within and not any(_overlap(box, other) for other in (*boxes, *obstacles)):
                boxes.append(box)
                labels.append(Label(_pixel(x), _pixel(y), name, anchor, point if abs(dy) > 20 else None))
                break
    return labels


def _overlap(a: Box, b: Box) -> bool:
    return a[0] < b[2] and a[2] > b[0] and a[1] < b[3] and a[3] > b[1]


def _places() -> Iterable[tuple[float, float, str]]:
    """Offsets of a label from its point, preferred ones first."""
    for dy in (4, -10, 19, -26, 34, -42, 50, -58, 66, -74, 82):
        for dx, anchor in ((10, "start"), (-10, "end"), (0, "middle")):
            if anchor != "middle" or abs(dy) > 8:
                yield dx, dy, anchor


def _round_step(rough: float) -> float:
    power = 10.0 ** math.floor(math.log10(rough))
    return power * next(f for f in (1, 2, 2.5, 5, 10) if f * power >= rough * (1 - 1e-9))


def _ticks(axis: Axis) -> list[dict[str, Any]]:
    ticks = axis.ticks()
    step = abs(ticks[1][0] - ticks[0][0]) if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(5) if abs(round(step, d) - step) < 1e-9 * step), 5)
    return [{"at": at, "text": text.number(v, decimals)} for v, at in ticks]


def _apart(ticks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ticks, without those whose text would touch that of one before."""
    kept: list[dict[str, Any]] = []
    for tick in ticks:
        if not kept or tick["at"] - kept[-1]["at"] > (_width(tick["text"]) + _width(kept[-1]["text"])) / 2 + 8:
            kept.append(tick)
    return kept


def _pixel(value: float) -> float:
    return round(text.rounded(value), 1) + 0.0


# ------------------------------------------------------------------------------------------------------------- text


def _width(name: str) -> float:
    return sum(2 * _CHARACTER if unicodedata.east_asian_width(c) in "WF" else _CHARACTER for c in name)


def _short(label: str, most: int) -> str:
    name = text.clean(label)
    return name if len(name) <= most else f"{name[: most - 14]}…{name[-13:]}"


def _name(metric: MetricInfo) -> str:
    unit = f" ({text.clean(metric.unit, 20)})" if metric.unit else ""
    better = f", {metric.better} is better" if metric.better else ""
    return f"{text.clean(metric.name, 60)}{unit}{better}"


def _finite(row: Row, metric: MetricInfo) -> bool:
    e = row.estimates.get(metric.name)
    return e is not None and abs(e.value) < _HUGE
