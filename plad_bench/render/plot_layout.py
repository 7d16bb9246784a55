"""Where things stand in a plot, in pixels: widths of pages, axes with round values, and labels that do not overlap."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise, product
from typing import Any, TypeAlias

from plad_bench.records import text


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
_CHARACTER = 7.3
"""Width reserved for a character of 12 pixels: more than common sans-serif fonts need."""
LINE = 15
"""Height of a label."""
_FEW = 12
"""Labels that are all shown, however crowded their places are."""

_TIMES = [f * unit for unit in (1e-3, 1e-2, 0.1) for f in (1, 2, 5)]
_TIMES += [f * unit for unit in (1.0, 60.0) for f in (1, 2, 5, 10, 20, 30)]
_TIMES += [f * unit for unit in (3600.0, 3.6e4, 3.6e5, 3.6e6, 3.6e7) for f in (1, 2, 5)]
"""Round durations in seconds."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""


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
        return pixel(self.start + (v - low) / (high - low) * (self.end - self.start))

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


def spread(places: Sequence[float], low: float, high: float) -> list[float]:
    """Heights of labels near these places, a line apart and within bounds that have room for them."""
    order = sorted(range(len(places)), key=lambda k: places[k])
    found = dict.fromkeys(order, 0.0)
    at = low - LINE
    for k in order:
        at = found[k] = max(places[k], at + LINE)
    at = high + LINE
    for k in reversed(order):
        at = found[k] = min(found[k], at - LINE)
    return [pixel(found[k]) for k in range(len(places))]


def legible(places: Sequence[float], first: Sequence[bool], most: int) -> list[int]:
    """At most so many labels to show: all of a few; of more, the `first` ones and those a line apart from any other."""
    if len(places) <= _FEW:
        return [*range(len(places))]
    shown = [k for k, wanted in enumerate(first) if wanted]
    for k in sorted(range(len(places)), key=lambda k: places[k]):
        if not first[k] and all(abs(places[k] - places[other]) >= LINE for other in shown):
            shown.append(k)
    return shown[:most]


def near(ends: Sequence[float], baselines: Sequence[float]) -> tuple[float, float]:
    """The range of the methods, extended to baselines as long as the methods keep about half of the plot."""
    low, high = min(ends), max(ends)
    span = (high - low) or 1.0
    for value in sorted(baselines, key=lambda v: max(low - v, v - high)):
        if max(high, value) - min(low, value) <= 2.2 * span:
            low, high = min(low, value), max(high, value)
    return low, high


def padded(low: float, high: float, start: float, end: float, share: float = 0.06) -> Axis:
    """A linear axis whose values reach beyond a range by a share of it on both sides."""
    span = high - low or abs(high) or 1.0
    return Axis(low - share * span, high + share * span, start, end)


def lanes(marks: Sequence[tuple[float, float]], left: float, right: float) -> list[tuple[float, int]]:
    """(centre, lane) of labels at given places and widths, so that none in a lane overlap."""
    taken: list[list[tuple[float, float]]] = []
    found = []
    for x, width in marks:
        centre = pixel(min(max(x, left + width / 2), right - width / 2))
        a, b = centre - width / 2 - 5, centre + width / 2 + 5
        lane = next((k for k, lane in enumerate(taken) if all(b < c or a > d for c, d in lane)), len(taken))
        taken += [[]] if lane == len(taken) else []
        taken[lane].append((a, b))
        found.append((centre, lane))
    return found


def placed(
    wanted: Iterable[tuple[Point, str]], points: Sequence[Point], line: Sequence[tuple[float, float]], frame: Box
) -> list[Label]:
    """Labels for points, each at the nearest free place; a point without free place nearby has only its tooltip."""
    dots = [(p.x - 5, p.y - 5, p.x + 5, p.y + 5) for p in points]
    bars = [(p.x - 1, min(p.low, p.high), p.x + 1, max(p.low, p.high)) for p in points]
    steps = [(min(a, c), min(b, d) - 1, max(a, c), max(b, d) + 1) for (a, b), (c, d) in pairwise(line)]
    labels: list[Label] = []
    boxes: list[Box] = []
    for point, name in wanted:
        width = text_width(name)
        reach = (point.x - width - 12, point.y - 85, point.x + width + 12, point.y + 86)
        close, only = ([box for box in of if _overlap(box, reach)] for of in ([*dots, *bars, *steps], dots))
        for obstacles, (dx, dy, anchor) in product((close, only), _places()):
            x, y = point.x + dx, point.y + dy
            start = {"start": x, "middle": x - width / 2, "end": x - width}[anchor]
            box = (start - 2, y - 11, start + width + 2, y + 4)
            within = box[0] >= frame[0] and box[1] >= frame[1] and box[2] <= frame[2] and box[3] <= frame[3]
            if within and not any(_overlap(box, other) for other in (*boxes, *obstacles)):
                boxes.append(box)
                labels.append(Label(pixel(x), pixel(y), name, anchor, point if abs(dy) > 20 else None))
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


def ticks(axis: Axis) -> list[dict[str, Any]]:
    """Pixels and texts of the round values of an axis, with as many decimals as they need."""
    ticks = axis.ticks()
    step = abs(ticks[1][0] - ticks[0][0]) if len(ticks) > 1 else 1.0
    decimals = next((d for d in range(5) if abs(round(step, d) - step) < 1e-9 * step), 5)
    return [{"at": at, "text": text.number(v, decimals)} for v, at in ticks]


def apart(ticks: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The ticks, without those whose text would touch that of one before."""
    kept: list[dict[str, Any]] = []
    for tick in ticks:
        if not kept or tick["at"] - kept[-1]["at"] > (text_width(tick["text"]) + text_width(kept[-1]["text"])) / 2 + 8:
            kept.append(tick)
    return kept


def pixel(value: float) -> float:
    """A place in pixels, to one decimal on every processor."""
    return round(text.rounded(value), 1) + 0.0


def text_width(name: str) -> float:
    """Pixels reserved for a text."""
    return sum(2 * _CHARACTER if unicodedata.east_asian_width(c) in "WF" else _CHARACTER for c in name)
