"""What tuning changed: every method of a tuned board beside itself on an untuned board of the same seeds and budget.

    python benchmarks/tuning.py demo-all demo-all-untuned

Prints a markdown table of means, of differences (paired by seed and example, with 95 % intervals and p-values that are
Holm-adjusted over the methods) and of positions by mean, and Kendall's tau-b of the two orders. It trains nothing.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from scipy import stats

from plad_bench.contract.errors import UsageError
from plad_bench.leaderboard import compare, statistics
from plad_bench.leaderboard.loading import load
from plad_bench.records.validation import LoadedRecord

BOARDS = Path(__file__).parents[1] / "leaderboards"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tuned", help="name of the tuned board")
    parser.add_argument("untuned", help="name of the untuned board")
    parser.add_argument("--boards-dir", type=Path, default=BOARDS)
    given = parser.parse_args()
    found = dict(_compared(given.boards_dir / given.tuned, given.boards_dir / given.untuned))
    if not found or len({(c.seeds, c.examples, c.metric.name) for c in found.values()}) > 1:
        raise SystemExit("the boards have no method in common, or not the same seeds and examples for all")
    one = next(iter(found.values()))
    sign = 1 if one.metric.better == "lower" else -1
    places = {side: _places([sign * getattr(c, side) for c in found.values()]) for side in "ab"}
    adjusted, _ = statistics.holm(np.array([c.p for c in found.values()]))
    scale = 100 if one.metric.unit == "%" else 1
    rows = sorted(zip(found.items(), places["b"], places["a"], adjusted, strict=True), key=lambda row: row[2])
    print(f"{one.metric.name}, {one.seeds} seeds, {one.examples} examples\n")
    print("| method | untuned | tuned | change | p (Holm) | place untuned | place tuned |")
    print("| :-- | --: | --: | --: | --: | --: | --: |")
    for (name, c), before, after, p in rows:
        change = f"{scale * c.difference:+.1f} ({scale * c.low:+.1f} to {scale * c.high:+.1f})"
        values = f"{scale * c.b:.1f} | {scale * c.a:.1f} | {change} | {'<0.001' if p < 0.001 else f'{p:.2g}'}"
        print(f"| `{name}` | {values} | {before} | {after} |")
    tau = stats.kendalltau(places["a"], places["b"])
    print(f"\nKendall's tau of the two orders: {tau.statistic:.2f} (p = {tau.pvalue:.2g} for no relation)")


def _compared(tuned: Path, untuned: Path) -> Iterator[tuple[str, compare.Comparison]]:
    """Each method that both boards have, and what tuning changed by the metric that ranks."""
    try:
        (group,) = load(tuned).groups
    except ValueError:
        raise SystemExit(f"{tuned.name} has not one task, teacher and student") from None
    for row in group.rows:
        try:
            sides = [compare.side(place, row.label) for place in (tuned, untuned)]
        except UsageError:  # one of them lacks it
            continue
        if differing := compare.protocols(*sides).keys() - {"tune"}:
            raise SystemExit(f"the boards differ in {', '.join(sorted(differing))}")
        for one in compare.compare(*sides, (), _refuse):
            yield row.label, one


def _refuse(cell: LoadedRecord, reason: str) -> None:
    raise SystemExit(f"{cell.file}: {reason}")


def _places(values: list[float]) -> list[int]:
    """The position of each value, the lowest first."""
    return stats.rankdata(values, method="min").astype(int).tolist()


if __name__ == "__main__":
    main()
