"""What the tables of a page say of a row and of a metric: rank, name, values with intervals, seeds, and links."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping

from plad_bench.contract.enums import BASELINES, OUTSIDE
from plad_bench.leaderboard.board import Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.statistics import EXAMPLES_ONLY, Estimate
from plad_bench.records import text
from plad_bench.records.text import NONE
from plad_bench.render.pieces import Column, Entry, Line, Name, Said

DAGGER = "† A single record: the interval covers examples only."
"""What the mark of a value says."""

_DOCUMENTED = re.compile(r"[a-z0-9][a-z0-9._-]*")

_ARXIV = re.compile(r"arXiv:(\d{4}\.\d{4,5})")


def rank(row: Row) -> str:
    """The ranks that a row may have, such as 3 or 1-3; empty if nothing is ranked."""
    if row.rank is None:
        return ""
    low, high = row.rank
    return str(low) if low == high else f"{low}-{high}"


def starred(row: Row) -> str:
    """`rank`, with a star if the row may be the best."""
    return rank(row) + (" \N{BLACK STAR}" if row.best else "")


def header(metric: MetricInfo) -> Line:
    """Name, unit, and an arrow in the better direction."""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.better or "", "")
    unit: Line = (" (", Said(metric.unit, 20), ")") if metric.unit else ()
    return (Said(metric.name, 60), *unit, arrow)


def linked(metric: MetricInfo, docs: str) -> Line:
    """The header of a metric, whose name leads to its definition if the docs are known."""
    return (Name(metric.name, documented(metric.name, "metrics", docs)), *header(metric)[1:])


def decimals(group: Group, metric: MetricInfo) -> int:
    """The number of decimals for a column."""
    rows = group.rows or group.baselines
    return text.decimals_for(
        metric.scale * e.half_width for row in rows if (e := row.estimates.get(metric.name)) is not None
    )


def value(estimate: Estimate | None, metric: MetricInfo, places: int) -> str:
    """A mean with the half width of its interval."""
    if estimate is None:
        return NONE
    mean = text.number(metric.scale * estimate.value, places)
    if not math.isfinite(estimate.half_width):
        return mean
    mark = " †" if estimate.label == EXAMPLES_ONLY else ""
    return f"{mean} ± {text.number(metric.scale * estimate.half_width, places)}{mark}"


def one_record(rows: Iterable[Row]) -> bool:
    """Whether a value of the rows has a dagger."""
    return any(e.label == EXAMPLES_ONLY for row in rows for e in row.estimates.values())


def seeds(row: Row) -> str:
    """How many of the requested seeds are done, or `fixed` if the row does not depend on the seed."""
    return f"{len(row.seeds)}/{row.asked}" if len(row.cells) > 1 or row.asked == 1 else "fixed"


def access(row: Row) -> str:
    """The teacher access of a row, by which rows are filtered."""
    return text.clean(row.access, 60)


def explained(row: Row, docs: str) -> str:
    """Where a method is explained: its page of the docs if it is built in and they are known, else its paper."""
    if row.method in (*BASELINES, OUTSIDE):
        return ""
    if docs and row.plugin.startswith("plad-bench "):
        return documented(row.method, "methods", docs)
    paper = _ARXIV.search(row.paper)
    return f"https://arxiv.org/abs/{paper[1]}" if paper else ""


def documented(name: str, page: str, docs: str) -> str:
    """The place of a method or metric in the docs; empty without docs, or for a name that no component can have."""
    name = name.partition("[")[0]
    return f"{docs}/{page}.md#{name}" if docs and _DOCUMENTED.fullmatch(name) else ""


def method_entry(row: Row, docs: str) -> Entry:
    """The name of a method, with its paper and learning rate as a tip."""
    rate = f"lr {row.lr:g}, {'shared' if row.lr_shared else 'its own'}" if row.rank is not None else ""
    return Entry((Name(row.label, explained(row, docs)),), tip="; ".join(filter(None, (text.clean(row.paper), rate))))


def metric_column(metric: MetricInfo) -> Column:
    """The column of a metric."""
    return Column(header(metric), right=True, better=metric.better or "")


def value_entries(row: Row, places: Mapping[MetricInfo, int]) -> Iterator[Entry]:
    """The values of a row; `places` has the metrics in order, with their decimals."""
    for metric, shown in places.items():
        estimate = row.estimates.get(metric.name)
        if estimate is None:
            yield Entry((NONE,))
        else:
            yield Entry((value(estimate, metric, shown),), estimate.value, _tip(estimate, metric))


def _tip(estimate: Estimate, metric: MetricInfo) -> str:
    low, high = (text.number(metric.scale * end, 2) for end in (estimate.low, estimate.high))
    return f"95 % interval {low} to {high}, over {estimate.label}"


def gap_entry(gap: Estimate | None) -> Entry:
    """The share of the gap that a method closes, with its interval."""
    if gap is None:
        return Entry((NONE,))
    low, high = (text.number(100 * end, 0) if math.isfinite(end) else "∞" for end in (gap.low, gap.high))
    return Entry((f"{text.number(100 * gap.value, 0)} % ({low} to {high})",), gap.value)


def seeds_entry(row: Row) -> Entry:
    """`seeds`, which sorts by how many are done."""
    return Entry((seeds(row),), len(row.seeds))
