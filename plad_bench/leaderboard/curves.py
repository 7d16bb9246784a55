"""The metric that ranks during training: a curve for each method, and which method is best at each point."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.statistics import Array, Estimate
from plad_bench.records.validation import LoadedRecord, matrix

if TYPE_CHECKING:
    from plad_bench.leaderboard.metric_info import MetricInfo
    from plad_bench.plan.boardfile import Prices


@dataclass(frozen=True)
class Moment:
    """A method after a share of its training. Costs are means over its seeds; None if a record lacks them."""

    percent: int
    """0 is the SFT initialisation, from which every method starts."""
    estimate: Estimate
    low: float
    """The least mean of a seed."""
    high: float
    """The greatest mean of a seed."""
    tokens: float | None
    """Tokens trained on."""
    seconds: float | None
    """Device-seconds of the training's steps, with a share of the teacher's."""
    money: float | None


@dataclass(frozen=True)
class Curve:
    """The points of a method, in the order of its training."""

    label: str
    best: bool
    """Whether it may be the best at the end."""
    points: tuple[Moment, ...]


@dataclass(frozen=True)
class Leader:
    """The method with the best mean after a share of the training."""

    percent: int
    label: str
    estimate: Estimate
    others: tuple[str, ...] | None
    """Other methods that may be the best there, by the tests of the ranks; None for a single seed."""


@dataclass(frozen=True)
class Trained:
    """A complete method."""

    label: str
    cells: Sequence[LoadedRecord]
    """One per seed."""
    best: bool
    teacher_share: float
    """Device-seconds."""


def curves(
    methods: Sequence[Trained], start: Sequence[LoadedRecord], metric: MetricInfo, prices: Prices | None
) -> tuple[Curve, ...]:
    """The curve of each method that was evaluated during its training; `start` has the SFT initialisation's cells."""
    found = []
    for method in methods:
        names = _names(method, metric)
        if len(names) < 2:
            continue
        points = [_point(method, percent, name, prices) for percent, name in sorted(names.items())]
        if start:
            points.insert(0, _begin(method, matrix(start, metric.name), prices))
        found.append(Curve(method.label, method.best, tuple(points)))
    return tuple(found)


def leaders(methods: Sequence[Trained], metric: MetricInfo) -> tuple[Leader, ...]:
    """The best method at each point that all methods with points have; none if only one method has some."""
    sign = 1.0 if metric.better == "higher" else -1.0
    named = {method.label: names for method in methods if len(names := _names(method, metric)) > 1}
    if len(named) < 2:
        return ()
    having = [method for method in methods if method.label in named]
    found = []
    for percent in sorted(set.intersection(*(set(names) for names in named.values()))):
        scores = [matrix(method.cells, named[method.label][percent]) for method in having]
        estimates = [statistics.estimate(of) for of in scores]
        order = sorted(range(len(having)), key=lambda k: (-sign * estimates[k].value, having[k].label))
        moments = statistics.moments([sign * scores[k] for k in order])
        others = None
        if moments.seeds > 1:
            best = statistics.pairwise(moments).best.tolist()
            others = tuple(having[k].label for k, may in zip(order[1:], best[1:], strict=True) if may)
        found.append(Leader(percent, having[order[0]].label, estimates[order[0]], others))
    return tuple(found)


def _names(method: Trained, metric: MetricInfo) -> dict[int, str]:
    """Percent of the training -> the name of the metric there, of points that every seed has; 100 is the end."""
    names = {100: metric.name}
    for name, part in method.cells[0].record.metrics.items():
        if part.point is not None and part.point.metric == metric.name:
            names[part.point.percent] = name
    parts = [cell.record.metrics for cell in method.cells]
    return {
        percent: name
        for percent, name in names.items()
        if all(name in of and of[name].n and of[name].better == metric.better for of in parts)
    }


def _point(method: Trained, percent: int, name: str, prices: Prices | None) -> Moment:
    costs = [{**cell.record.cost, **cell.record.points.get(str(percent), {})} for cell in method.cells]
    return _at(method, percent, matrix(method.cells, name), costs, prices)


def _begin(method: Trained, start: Array, prices: Prices | None) -> Moment:
    nothing = {"tokens_trained": 0.0, "update_device_seconds": 0.0}
    return _at(method, 0, start, [{**cell.record.cost, **nothing} for cell in method.cells], prices)


def _at(
    method: Trained, percent: int, scores: Array, costs: Sequence[Mapping[str, float]], prices: Prices | None
) -> Moment:
    """A point with the means of costs over seeds, in which the time of training is that of its steps alone.

    `scores` are [S, E].
    """

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if len(known) == len(values) else None

    seconds = mean([cost.get("update_device_seconds") for cost in costs])
    with np.errstate(over="ignore", invalid="ignore"):
        by_seed = statistics.fill(scores).mean(axis=1)
    return Moment(
        percent,
        statistics.estimate(scores),
        low=float(by_seed.min()),
        high=float(by_seed.max()),
        tokens=mean([cost.get("tokens_trained") for cost in costs]),
        seconds=None if seconds is None else seconds + method.teacher_share,
        money=mean([prices.so_far(cost) for cost in costs]) if prices and seconds is not None else None,
    )
