"""Measure what docs/statistics.md claims: coverage of the intervals, ties of equal methods, power, and gap closed.

Run `python benchmarks/coverage.py` (about a minute on one core); it prints the tables of that page.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import numpy as np

from plad_bench.leaderboard import statistics
from plad_bench.leaderboard.statistics import Array, Moments

REGIMES = {"dominant": 0.9, "balanced": 0.5, "negligible": 0.0}
"""Share of the variance of a mean that comes from the seeds."""


def normal(rng: np.random.Generator, share: float, shape: tuple[int, int, int], *, paired: bool = False) -> Array:
    """Scores [boards, S, E] of mean 0 whose mean has variance 1, a given share of it from the seeds.

    The rest comes from the examples, with a residual as large; a paired difference of methods that find the same
    examples hard has no example component, so there the rest is residual.
    """
    n, seeds, examples = shape
    scores: Array = rng.normal(0, np.sqrt(share * seeds), (n, seeds, 1))
    example = 0.0 if paired else np.sqrt((1 - share) * examples)
    residual = np.sqrt((1 - share) * seeds * examples) if paired else example
    scores = scores + rng.normal(0, example, (n, 1, examples))
    scores += rng.normal(0, residual, shape)
    return scores


def binary(rng: np.random.Generator, rate: float, train: float, shape: tuple[int, int, int], methods: int) -> Array:
    """Scores [methods, boards, S, E] of 0 and 1 of equal methods that share examples and SFT initialisation.

    In logits: examples spread by 1.5, SFT initialisations by 0.2, each method's training seeds by `train`, the residual
    by 1.
    """
    n, seeds, examples = shape
    base = np.log(rate / (1 - rate)) + rng.normal(0, 1.5, (n, 1, examples)) + rng.normal(0, 0.2, (n, seeds, 1))
    logits = base + rng.normal(0, train, (methods, n, seeds, 1)) + rng.normal(0, 1, (methods, *shape))
    return np.where(rng.random(logits.shape) < 1 / (1 + np.exp(-logits)), 1.0, 0.0)


def diagonal(scores: Array) -> tuple[Array, Array, Array]:
    """Mean, standard error and degrees of freedom of every board of scores [boards, S, E]."""
    moments = [statistics.moments([board]) for board in scores]
    first: Moments = moments[0]
    columns = (np.array([getattr(m, name)[0, 0] for m in moments]) for name in ("seed", "example", "residual"))
    stderr, df = first.error(*columns)
    return np.array([m.mean[0] for m in moments]), stderr, df


def covered(scores: Array) -> float:
    """Share of boards whose interval holds the true mean, 0."""
    mean, stderr, df = diagonal(scores)
    return float((np.abs(mean) <= statistics.quantile(df, statistics.LEVEL) * stderr).mean())


def tied(scores: Array) -> float:
    """Share of boards on which no two methods of scores [methods, boards, S, E] differ significantly."""
    lost = [
        statistics.pairwise(statistics.moments(list(board))).p_holm < 1 - statistics.LEVEL
        for board in scores.swapaxes(0, 1)
    ]
    return float(np.mean([not significant.any() for significant in lost]))


def first(
    rng: np.random.Generator, methods: int, seeds: int, *, spread: float, unequal: float, boards: int
) -> tuple[float, float, float, float]:
    """How the methods that may be the best come out, where the spread between seeds is all there is.

    Returns:
        The share of boards on which the truly best is not among them, how many they are, how many of them are truly
        worse by more than four residual standard deviations of a seed, and the share of boards on which some method's
        rank interval leaves out its true rank.

    """
    out, size, far, missed = 0.0, 0.0, 0.0, 0.0
    for _ in range(boards):
        truth = np.r_[0.0, np.sort(rng.exponential(spread, methods - 1))] if spread else np.zeros(methods)
        deviation = np.exp(rng.normal(0, unequal, methods))
        shared = 3 * rng.normal(size=(1, seeds))
        x = shared - truth[:, None] + rng.normal(size=(methods, seeds)) * deviation[:, None]
        nothing, examples = np.zeros((methods, methods)), 1000
        squares = examples * np.atleast_2d(np.cov(x))
        pairs = statistics.pairwise(Moments(x.mean(axis=1), squares, nothing, nothing, seeds, examples))
        out += not pairs.best[0]
        size += pairs.best.sum()
        far += (pairs.best & (truth > 4)).sum()
        lows, highs = zip(*map(pairs.rank_interval, range(methods)), strict=True)
        below, above = ((truth[None, :] < truth[:, None]).sum(1), (truth[None, :] <= truth[:, None]).sum(1))
        missed += bool(((np.array(lows) > above) | (np.array(highs) < below + 1)).any())
    return out / boards, size / boards, far / boards, missed / boards


def winners(rng: np.random.Generator, boards: int) -> Iterator[list[str]]:
    """Rows of the table on rank 1."""
    for methods, seeds, spread, unequal in product((2, 4, 8, 24), (3, 5, 10), (0.0, 4.0), (0.0, 0.5, 1.0)):
        many = boards // 4 if methods < 24 else boards // 8
        out, size, far, missed = first(rng, methods, seeds, spread=spread, unequal=unequal, boards=many)
        facts = (str(methods), str(seeds), "spread" if spread else "none", f"{unequal:g}")
        yield [*facts, f"{out:.1%}", f"{size:.1f}", f"{far:.2f}", f"{missed:.1%}"]


def found(rng: np.random.Generator, share: float, shape: tuple[int, int, int], methods: int, times: float) -> float:
    """Share of comparisons that find a method better than the rest by some times the (median) minimum of the boards."""
    n, seeds, examples = shape
    own = normal(rng, share, (methods * n, seeds, examples), paired=True).reshape(methods, *shape)
    boards = own / np.sqrt(2) + rng.normal(0, np.sqrt(examples), (n, 1, examples))  # a difference has variance 1
    compared = [statistics.pairwise(statistics.moments(list(board))) for board in boards.swapaxes(0, 1)]
    printed = float(np.median([pairs.minimum(0, 1) for pairs in compared]))
    boards[0] += times * printed
    hits = []
    for board in boards.swapaxes(0, 1):
        pairs = statistics.pairwise(statistics.moments(list(board)))
        hits += [pairs.p_holm[0, k] < 1 - statistics.LEVEL and pairs.difference[0, k] > 0 for k in range(1, methods)]
    return float(np.mean(hits))


def gap_covered(rng: np.random.Generator, share: float, shape: tuple[int, int, int]) -> tuple[float, float]:
    """(coverage of the interval where it is shown, share of boards that show it), of a true gap closed of 60 %.

    The teacher is 10 standard errors above the SFT initialisation.
    """
    n, _, examples = shape
    method, start = (normal(rng, share, shape, paired=True) / np.sqrt(2) + gain for gain in (6.0, 0.0))
    hard = rng.normal(0, np.sqrt(examples), (n, 1, examples))
    teacher = 10 + rng.normal(0, np.sqrt(examples) / 2, (n, 1, examples))
    gaps = [
        statistics.gap_closed(statistics.moments([m + h, s + h, t + h]))
        for m, s, t, h in zip(method, start, teacher, hard, strict=True)
    ]
    shown = [gap for gap in gaps if gap is not None]
    return sum(gap.low <= 0.6 <= gap.high for gap in shown) / len(shown), len(shown) / n


def table(head: str, rows: Iterator[list[str]]) -> None:
    """Print a markdown table."""
    columns = head.split(", ")
    print("\n| " + " | ".join(columns) + " |\n|" + " --: |" * len(columns))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def coverage(rng: np.random.Generator, boards: int, examples: int) -> Iterator[list[str]]:
    """Rows of the first table."""
    for seeds, (name, share) in product((2, 3, 5, 10), REGIMES.items()):
        shape = (boards, seeds, examples)
        single, paired = covered(normal(rng, share, shape)), covered(normal(rng, share, shape, paired=True))
        gap, shown = gap_covered(rng, share, (boards // 4, seeds, examples))
        yield [str(seeds), name, f"{single:.1%}", f"{paired:.1%}", f"{gap:.1%}", f"{shown:.0%}"]


def equals(rng: np.random.Generator, boards: int, examples: int) -> Iterator[list[str]]:
    """Rows of the second table."""
    for seeds, (rate, train) in product((3, 5, 10), ((0.1, 0.0), (0.1, 0.3), (0.5, 0.1))):
        scores = binary(rng, rate, train, (boards, seeds, examples), 4)
        shares = (covered(scores[2] - scores[3]), tied(scores[:2]), tied(scores))
        yield [str(seeds), f"{rate:g}", f"{train:g}", *(f"{share:.1%}" for share in shares)]


def power(rng: np.random.Generator, boards: int, examples: int) -> Iterator[list[str]]:
    """Rows of the third table."""
    for seeds, (name, share) in product((3, 5, 10), REGIMES.items()):
        shape = (boards // 8, seeds, examples)
        cases = product((2, 4, 8), (1, 2))
        yield [str(seeds), name, *(f"{found(rng, share, shape, methods, times):.1%}" for methods, times in cases)]


def main(boards: int = 4000, examples: int = 300) -> None:
    """Print the tables."""
    rng = np.random.default_rng(20240406)
    error = 100 * np.sqrt(0.95 * 0.05 / boards)
    print(f"{boards} boards of {examples} examples; standard error of a share of 95 %: {error:.1f} points")
    table("Seeds, Seed variance, One method, Paired difference, Gap closed, Gap shown", coverage(rng, boards, examples))
    table("Seeds, Mean, Training seeds, Difference covered, 2 equal tie, 4 equal tie", equals(rng, boards, examples))
    head = (
        "Methods, Seeds, Differences, Unequal variances, Best left out, May be best, Of these far worse, Ranks missed"
    )
    table(head, winners(rng, boards))
    found = ", ".join(f"{what} of {methods}" for methods in (2, 4, 8) for what in ("Once", "Twice"))
    table(f"Seeds, Seed variance, {found}", power(rng, boards, examples))


if __name__ == "__main__":
    main()
