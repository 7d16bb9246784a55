"""Draws marks and lines on two scales as SVG, by templates, so that the bytes depend on no plotting library.

Colours follow the reader's light or dark mode. Text from records is escaped by the template. plot_layout.py says where
everything stands, plots.py what a board's plots show.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from plad_bench.leaderboard.board import Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.records import text
from plad_bench.render import plot_layout as layout
from plad_bench.render.plot_layout import Axis, Box, Point, Size
from plad_bench.render.templating import draw

MOST = 40
"""Rows of the interval plot, and points of the cost plot that can get a label."""
DASHES = ("none", "7 3", "2 3", "9 3 2 3")
"""Of lines, in turn, so that they differ without colour."""
HUGE = 1e100
"""Larger numbers are left out of a plot."""

Place: TypeAlias = tuple[float, float]
"""Values on the two scales of a plot."""


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
        low, high = (e.low, e.high) if abs(e.low) < HUGE and abs(e.high) < HUGE else (e.value, e.value)
        first, value, last = (text.number(scale * v, 2) for v in (e.low, e.value, e.high))
        title = f"{text.clean(row.label)}: {value}, 95 % interval {first} to {last} ({e.label})"
        return cls(short(row.label, most), title, scale * e.value, scale * low, scale * high, row.best)


@dataclass(frozen=True)
class Dot:
    """A value on a line, in the units of the page, with its interval; `low` and `high` are `y` where it has none."""

    x: float
    y: float
    low: float
    high: float
    title: str


@dataclass(frozen=True)
class PlotLine:
    """A line of a plot, in the units of the page."""

    name: str
    best: bool
    points: tuple[Place, ...]
    dots: tuple[Dot, ...]
    band: tuple[Place, ...] = ()
    """Outline of the area around the line."""
    dash: str = "none"


def scatter_plot(
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
        x = layout.padded(min(at), max(at), left, right, share=0.15)
    y = layout.padded(min(row.low for row in rows), max(row.high for row in rows), bottom, top)
    points = [
        Point(x.at(v), y.at(row.value), y.at(row.low), y.at(row.high), row.title, k in front if front else row.best)
        for k, (row, v) in enumerate(zip(rows, at, strict=True))
    ]
    order = [*front, *(k for k in range(len(rows)) if k not in front)][:MOST]
    line = [(points[k].x, points[k].y) for k in front[:1]]
    for k in front[1:]:  # a staircase: there is no method between two neighbours
        line += [(points[k].x, line[-1][1]), (points[k].x, points[k].y)]
    line += [(right, line[-1][1])] if line else []
    ticks = [{"at": pixel, "text": x_text(v)} for v, pixel in x.ticks()] if x_text else layout.ticks(x)
    return _with_scales(
        "scatter.svg.j2",
        size,
        (left, top, right, bottom),
        y,
        title=title,
        width=of.width,
        x_ticks=ticks,
        captions=captions,
        y_label=y_label,
        points=points,
        labels=layout.placed([(points[k], rows[k].name) for k in order], points, line, (left + 4, top, right, bottom)),
        front=" ".join(f"{a},{b}" for a, b in line),
    )


def line_plot(
    of: Size,
    size: Size | None,
    *,
    title: str,
    lines: Sequence[PlotLine],
    x: tuple[float, float],
    log: bool = False,
    x_ticks: Sequence[tuple[float, str]] = (),
    x_text: Callable[[float], str] = str,
    captions: Sequence[str],
    y_label: str,
) -> str:
    """Lines whose names stand at their right ends; `x` has the ends of the scale, `x_ticks` places other than round."""
    room = max((layout.text_width(line.name) for line in lines), default=0.0)
    left, right, top, bottom = 56.0, layout.pixel(of.width - 24 - room), 60.0, 400.0
    across = Axis(*x, left, right, log=log)
    values = [
        v for line in lines for v in (*(y for _, y in line.band), *(v for d in line.dots for v in (d.low, d.high)))
    ]
    up = layout.padded(min(values, default=0.0), max(values, default=1.0), bottom, top)
    ends = [up.at(line.points[-1][1]) for line in lines]
    named = layout.legible(ends, [line.best for line in lines], int(bottom - top) // layout.LINE)
    names = dict(zip(named, layout.spread([ends[k] for k in named], top, bottom), strict=True))
    if len(named) < len(lines):
        captions = [*captions, f"{len(lines) - len(named)} lines without room for their names"]

    def path(points: Iterable[Place]) -> str:
        return " ".join(f"{across.at(a)},{up.at(min(max(b, up.low), up.high))}" for a, b in points)

    drawn = [
        {
            "best": line.best,
            "points": path(line.points),
            "band": path(line.band),
            "dash": line.dash,
            "dots": [
                Point(across.at(d.x), up.at(d.y), up.at(d.low), up.at(d.high), d.title, line.best) for d in line.dots
            ],
            "end": (across.at(line.points[-1][0]), ends[k]),
            "label": names.get(k),
            "name": line.name,
        }
        for k, line in enumerate(lines)
    ]
    ticks = [(across.at(v), told) for v, told in x_ticks] or [(at, x_text(v)) for v, at in across.ticks()]
    return _with_scales(
        "lines.svg.j2",
        size,
        (left, top, right, bottom),
        up,
        title=title,
        width=of.width,
        x_ticks=[{"at": at, "text": told} for at, told in ticks],
        captions=captions,
        y_label=y_label,
        lines=drawn,
    )


def _with_scales(
    template: str,
    size: Size | None,
    frame: Box,
    y: Axis,
    *,
    title: str,
    width: int,
    x_ticks: Iterable[dict[str, Any]],
    captions: Sequence[str],
    y_label: str,
    **marks: Any,
) -> str:
    """A plot with two scales, a grid and captions below."""
    return draw(
        template,
        size=size,
        title=title,
        width=width,
        **framed(frame, captions),
        x_ticks=layout.apart(x_ticks),
        y_ticks=layout.ticks(y),
        y_label=y_label,
        **marks,
    )


def framed(frame: Box, captions: Sequence[str]) -> dict[str, Any]:
    """The edges of a plot's scales, and the captions below, for its template."""
    left, top, right, bottom = frame
    return {
        "left": left,
        "right": right,
        "top": top,
        "bottom": bottom,
        "middle": layout.pixel((left + right) / 2),
        "height": bottom + 30 + 18 * len(captions),
        "captions": captions,
    }


def short(label: str, most: int) -> str:
    """A label of at most so many characters: without its middle if it is longer."""
    name = text.clean(label)
    return name if len(name) <= most else f"{name[: most - 14]}…{name[-13:]}"
