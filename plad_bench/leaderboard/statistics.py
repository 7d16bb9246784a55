"""Statistics of a board: intervals, paired tests, ranks, minimum detectable differences, and the gap closed.

The scores of one method are a matrix [S seeds, E examples] of the same examples for every seed, so seeds and examples
are crossed: score = mean + seed + example + residual, all random. Every number here comes from the mean squares of
those three components; docs/statistics.md derives it and shows the measured coverage.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

Array: TypeAlias = NDArray[np.float64]

LEVEL = 0.95
"""Confidence level of every interval; 1 - LEVEL is the error of a family of tests."""
POWER = 0.80
"""Probability of detecting a difference of the minimum detectable size."""
FLOOR = 0.05
"""Minimum mean square of seeds, as a share of the residual's: seeds that agree by chance make no mean certain."""

MODERATED = 8
"""With at least this many methods, the mean squares of seeds of their differences share a prior."""
BORROWED = 4
"""Maximum weight of the prior, relative to their own degrees of freedom: differences of few methods are dependent."""

BOTH = "seeds and examples"
EXAMPLES_ONLY = "examples only"


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % interval; the interval is NaN if the data gives none."""

    value: float
    low: float
    high: float
    n_seeds: int
    label: str
    """The scope of the interval: "seeds and examples", or "examples only" for a single seed."""

    @property
    def half_width(self) -> float:
        """Half width of the interval, which is symmetric except for a gap closed."""
        return (self.high - self.low) / 2


@dataclass(frozen=True)
class Prior:
    """The prior of the mean squares of seeds of all paired differences (Smyth 2004)."""

    square: float
    """Their typical value."""
    df: float
    """Its degrees of freedom."""


@dataclass(frozen=True)
class Moments:
    """Mean squares and products of K methods over S seeds and E examples, which are sufficient statistics."""

    mean: Array
    """[K]"""
    seed: Array
    """[K, K]; the diagonal has the mean squares, with S - 1 degrees of freedom."""
    example: Array
    """[K, K]; E - 1 degrees of freedom."""
    residual: Array
    """[K, K]; (S - 1)(E - 1) degrees of freedom."""
    seeds: int
    examples: int
    prior: Prior | None = None
    """For paired differences; None leaves each to its own seeds."""

    def only(self, methods: Sequence[int] | slice) -> Moments:
        """The moments of some methods; of a slice without a copy."""
        index = (methods, methods) if isinstance(methods, slice) else np.ix_(methods, methods)
        mean = self.mean[methods if isinstance(methods, slice) else list(methods)]
        seed, example, residual = (product[index] for product in (self.seed, self.example, self.residual))
        return Moments(mean, seed, example, residual, self.seeds, self.examples, self.prior)

    def contrast(self, i: int, k: int | slice) -> tuple[Array, Array, Array]:
        """Method i minus k, paired: the difference of their means, its standard error and degrees of freedom."""
        with np.errstate(over="ignore", invalid="ignore"):
            difference = self.mean[i] - self.mean[k]
            scale = np.maximum(np.abs(self.mean[i]), np.abs(self.mean[k]))
            difference = np.where(np.abs(difference) <= 1e-12 * scale, 0.0, difference)  # equal up to rounding
            seed, example, residual = (np.maximum(s[i, i] + s.diagonal()[k] - 2 * s[i, k], 0) for s in self._products)
            return difference, *_error(seed, example, residual, self.seeds, self.examples, self.prior)

    @property
    def _products(self) -> tuple[Array, Array, Array]:
        return self.seed, self.example, self.residual

    def of(self, weights: Array) -> tuple[float, float, float]:
        """Mean, standard error and degrees of freedom of the sum over methods of weights [K] times scores."""
        with np.errstate(over="ignore", invalid="ignore"):
            squares = (float(weights @ product @ weights) for product in (self.seed, self.example, self.residual))
            stderr, df = self.error(*squares)
            return float(weights @ self.mean), float(stderr), float(df)

    def error(self, seed: Array | float, example: Array | float, residual: Array | float) -> tuple[Array, Array]:
        """Standard error of a mean and its degrees of freedom, from its three mean squares, elementwise.

        The variance of the mean of S x E scores is (seed + example - residual) / (S E). The example component,
        example - residual, is at least 0. The degrees of freedom are the harmonic mean of those of the two components,
        weighted by their shares of the variance.
        """
        return _error(seed, example, residual, self.seeds, self.examples)


def _error(  # noqa: PLR0917  three mean squares, and what they were taken over
    seed: Array | float,
    example: Array | float,
    residual: Array | float,
    seeds: int,
    examples: int,
    prior: Prior | None = None,
) -> tuple[Array, Array]:
    seed = np.maximum(seed, FLOOR * np.maximum(residual, 0))
    free: float = max(seeds - 1, 1)
    if prior is not None:
        seed = (prior.df * prior.square + free * seed) / (prior.df + free)
        free += min(prior.df, BORROWED * free)
    variance = seed + np.maximum(np.subtract(example, residual), 0)
    share = np.divide(seed, variance, out=np.zeros_like(variance), where=variance > 0)
    df = 1 / (share / free + (1 - share) / max(examples - 1, 1))
    if examples < 2:
        variance = np.full_like(variance, np.nan)
    return np.sqrt(variance / (seeds * examples)), df


@dataclass(frozen=True)
class Pairwise:
    """Paired comparisons of K methods, row minus column; higher is better."""

    moments: Moments
    difference: Array
    """[K, K]"""
    p_holm: Array
    """[K, K], two-sided, adjusted over all K (K - 1) / 2 pairs."""
    tests: Array
    """[K, K], the number of pairs among which Holm's procedure tested this one, which sets its interval's level."""
    best: NDArray[np.bool_]
    """[K], whether it may be the best: no other method is better by one-sided tests over the K - 1 comparisons with it
    (Hsu 1984), which count as at least two, so that of two methods the pair's own test decides."""

    def half_width(self, i: int, k: int, level: float = 0.0) -> float:
        """Half width of the difference's interval, which excludes 0 exactly if the pair is a win, or at a level."""
        _, stderr, df = self.moments.contrast(i, k)
        return float(quantile(df, level or 1 - (1 - LEVEL) / self.tests[i, k]) * stderr)

    def p(self, i: int, k: int) -> float:
        """Without adjustment."""
        return float(p_value(*self.moments.contrast(i, k)))

    def minimum(self, i: int, k: int, tests: int | None = None) -> float:
        """Minimum detectable difference if this many tests are made together; None for all pairs."""
        _, stderr, df = self.moments.contrast(i, k)
        return float(minimum_detectable(stderr, df, tests or self._pairs))

    def rank_interval(self, i: int) -> tuple[int, int]:
        """The possible ranks of method i: after all that are significantly better, before all that are worse.

        Simultaneous over all methods, by Holm's tests of all pairs (Mogstad, Romano, Shaikh and Wilhelm 2024).
        """
        certain = self.p_holm[i] < 1 - LEVEL
        better, worse = (int((certain & (d < 0)).sum()) for d in (self.difference[i], -self.difference[i]))
        return 1 + better, len(self.best) - worse

    def seeds_to_separate(self, i: int, k: int, most: int = 200) -> int | None:
        """The least number of seeds with which 80 % of boards would detect a difference of this size.

        None if `most` seeds are not enough; then it takes more examples.
        """
        m, apart = self.moments, abs(float(self.difference[i, k]))
        squares = [max(float(s[i, i] + s[k, k] - 2 * s[i, k]), 0.0) for s in (m.seed, m.example, m.residual)]
        of_examples = max(squares[1] - squares[2], 0.0) / m.seeds  # independent of the number of seeds

        def found(seeds: int) -> bool:
            stderr, df = _error(squares[0], squares[2] + of_examples * seeds, squares[2], seeds, m.examples, m.prior)
            return bool(minimum_detectable(stderr, df, self._pairs) <= apart)

        return next((seeds for seeds in range(2, most + 1) if found(seeds)), None) if apart > 0 else None

    @property
    def _pairs(self) -> int:
        return max(len(self.difference) * (len(self.difference) - 1) // 2, 1)


def fill(matrix: Array) -> Array:
    """Scores [..., S, E] with NaN for missing ones -> full tables whose row means are those of the existing scores.

    A mean over the examples with a score is a ratio of two means. This is its linearisation: mean + (score - mean) x
    E / n in a row with n scores, and the mean itself for missing ones, so that the matrix has the sampling error of
    that ratio. A row without any score stays NaN.
    """
    missing = np.isnan(matrix)
    if not missing.any():
        return matrix
    n = (~missing).sum(axis=-1, keepdims=True)
    mean = np.where(n > 0, np.where(missing, 0.0, matrix).sum(axis=-1, keepdims=True) / np.maximum(n, 1), np.nan)
    filled: Array = np.where(missing, mean, mean + (matrix - mean) * (matrix.shape[-1] / np.maximum(n, 1)))
    return filled


def moments(scores: Sequence[Array]) -> Moments:
    """The mean squares of K methods from their scores [S, E]; a matrix [1, E] is fixed and counts for every seed."""
    seeds = max(len(matrix) for matrix in scores)
    examples = scores[0].shape[1]
    x = np.stack([np.broadcast_to(fill(matrix), (seeds, examples)) for matrix in scores])
    with np.errstate(over="ignore", invalid="ignore"):
        mean, by_seed, by_example, x = _components(x)
        return Moments(
            mean=mean,
            seed=examples * (by_seed @ by_seed.T) / max(seeds - 1, 1),
            example=seeds * (by_example @ by_example.T) / max(examples - 1, 1),
            residual=(x @ x.T) / max((seeds - 1) * (examples - 1), 1),
            seeds=seeds,
            examples=examples,
        )


def _components(x: Array) -> tuple[Array, Array, Array, Array]:
    """Tables [K, S, E], overwritten -> means [K], effects of seeds [K, S], of examples [K, E], residuals [K, S E]."""
    by_seed, by_example, mean = x.mean(axis=2), x.mean(axis=1), x.mean(axis=(1, 2))
    x -= by_seed[:, :, None]
    x -= by_example[:, None, :]
    x += mean[:, None, None]
    by_seed -= mean[:, None]
    by_example -= mean[:, None]
    return mean, by_seed, by_example, x.reshape(len(x), -1)


def estimate(matrix: Array) -> Estimate:
    """The mean of scores [S, E] with its interval: two-way random effects, or Student's t over examples if S = 1."""
    return estimates(matrix[None])[0]


def estimates(tables: Array) -> list[Estimate]:
    """`estimate` of each of M tables [M, S, E], such as the metrics of one method."""
    _, seeds, examples = tables.shape
    with np.errstate(over="ignore", invalid="ignore"):
        mean, *effects = _components(np.array(fill(tables)))
        seed, example, residual = (np.einsum("mi,mi->m", effect, effect) for effect in effects)
        stderr, df = _error(
            examples * seed / max(seeds - 1, 1),
            seeds * example / max(examples - 1, 1),
            residual / max((seeds - 1) * (examples - 1), 1),
            seeds,
            examples,
        )
        half = quantile(df, LEVEL) * stderr
    label = BOTH if seeds > 1 else EXAMPLES_ONLY
    ends = zip(mean.tolist(), (mean - half).tolist(), (mean + half).tolist(), strict=True)
    return [Estimate(value, low, high, seeds, label) for value, low, high in ends]


def of_examples(mean: float | None, stderr: float | None, n: int) -> Estimate | None:
    """The estimate of one seed from mean, standard error and count over its examples; None without a mean."""
    if mean is None:
        return None
    half = np.nan if stderr is None else float(quantile(n - 1, LEVEL) * stderr)
    return Estimate(mean, mean - half, mean + half, 1, EXAMPLES_ONLY)


def moderated(m: Moments) -> Moments:
    """The moments with a prior of the mean squares of seeds, if there are enough methods to estimate one.

    Smyth (2004), section 6.2: the spread of the logarithms of the mean squares of all paired differences has two
    parts, one from their degrees of freedom, and one from true differences.
    """
    from scipy.special import digamma, polygamma

    methods, free = len(m.mean), m.seeds - 1
    if methods < MODERATED or free < 1:
        return m
    diagonal = m.seed.diagonal()
    upper = np.triu_indices(methods, 1)
    squares = (diagonal[:, None] + diagonal[None, :] - 2 * m.seed)[upper]
    squares = squares[np.isfinite(squares) & (squares > 0)]
    if len(squares) < MODERATED:
        return m
    logs = np.log(squares) - digamma(free / 2) + np.log(free / 2)
    spread = float(logs.var(ddof=1) - polygamma(1, free / 2))
    most = (methods - 1) * free
    df = float(most)
    if spread > float(polygamma(1, most / 2)):
        df = 2 * root(lambda half: float(polygamma(1, half)) - spread, 1e-3, most / 2)
    square = float(np.exp(logs.mean() + digamma(df / 2) - np.log(df / 2)))
    return replace(m, prior=Prior(square, df))


def pairwise(m: Moments) -> Pairwise:
    """All paired differences, by seed and example, with Holm-adjusted tests."""
    m = moderated(m)
    methods = len(m.mean)
    difference, p = np.zeros(m.seed.shape), np.ones(m.seed.shape)
    for i in range(methods - 1):
        behind = slice(i + 1, None)
        apart, stderr, df = m.contrast(i, behind)
        difference[i, behind], difference[behind, i] = apart, -apart
        p[i, behind] = p[behind, i] = p_value(apart, stderr, df)
    beaten = (difference < 0) & (p / 2 < (1 - LEVEL) / max(methods - 1, 2))
    lower = np.tri(methods, k=-1, dtype=bool)
    adjusted, tests = np.ones_like(p), np.ones_like(p)
    for whole, part in zip((adjusted, tests), holm(p[lower]), strict=True):
        whole[lower] = part
        whole.T[lower] = part
    return Pairwise(m, difference, adjusted, tests, np.logical_not(beaten.any(axis=1)))


def better(m: Moments, methods: int) -> NDArray[np.bool_]:
    """Whether each of the first `methods` is significantly better than each of the C others, [methods, C].

    By the paired tests of `pairwise`, Holm-adjusted over these methods x C comparisons alone.
    """
    m, others = moderated(m), slice(methods, None)
    contrasts = [m.contrast(i, others) for i in range(methods)]
    apart = np.array([difference for difference, _, _ in contrasts])
    p = np.array([p_value(*contrast) for contrast in contrasts])
    significant: NDArray[np.bool_] = holm(p.ravel())[0].reshape(p.shape) < 1 - LEVEL
    return significant & (apart > 0)


def p_value(difference: Array | float, stderr: Array | float, df: Array | float) -> Array:
    """Two-sided p of a mean difference being 0, elementwise; 1 if the data gives none."""
    from scipy.special import stdtr

    difference, stderr = np.asarray(difference, float), np.asarray(stderr, float)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(difference == 0, 0.0, np.abs(difference) / stderr)
    p = 2 * stdtr(df, -t)
    return np.where(np.isnan(p), 1.0, p)


def quantile(df: Array | float, level: float) -> Array:
    """Half width, in standard errors, of a symmetric interval of Student's t."""
    from scipy.special import stdtrit

    return np.asarray(stdtrit(df, 0.5 + level / 2))


def minimum_detectable(stderr: Array | float, df: Array | float, tests: int = 1) -> Array:
    """The true difference that one of a family of tests detects with probability 80 %, whatever the others detect.

    (t.975 + t.80) standard errors for a single two-sided test at 5 %. With several tests, Holm's first step requires
    5 % / tests of the best.
    """
    from scipy.special import stdtrit

    return np.asarray((quantile(df, 1 - (1 - LEVEL) / tests) + stdtrit(df, POWER)) * stderr)


def holm(p: Array) -> tuple[Array, Array]:
    """Holm's step-down procedure on p-values [M].

    Returns:
        The adjusted p-values, to reject below the error of the whole family, and the number of hypotheses among which
        each was tested: M for the smallest, one less after each rejection, and the same for all that are not rejected.

    """
    order = np.argsort(p, kind="stable")
    steps = np.arange(len(p), 0, -1)
    scaled = p[order] * steps
    adjusted, tests = np.empty_like(p), np.empty_like(p)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    kept = np.flatnonzero(scaled >= 1 - LEVEL)
    tests[order] = np.maximum(steps, steps[kept[0]] if len(kept) else 1)
    return adjusted, tests


def gap_closed(m: Moments) -> Estimate | None:
    """(method - start) / (teacher - start) with Fieller's interval; None unless teacher and start differ significantly.

    `m` has the moments of method, start and teacher, in this order, oriented so that higher is better; None also if
    the teacher is worse. The interval holds every g for which the paired test does not reject
    method - start = g (teacher - start); it is bounded because the denominator differs from 0.
    """
    gap, stderr, df = m.of(np.array([0.0, -1.0, 1.0]))
    if not (gap > 0 and p_value(gap, stderr, df) < 1 - LEVEL):
        return None
    value = float((m.mean[0] - m.mean[1]) / gap)

    def excess(g: float) -> float:
        distance, error, freedom = m.of(np.array([1.0, g - 1.0, -g]))
        return float(abs(distance) - quantile(freedom, LEVEL) * error)

    def end(direction: float) -> float:
        if not excess(value) < 0:  # no error, or an unknown one
            return value
        step = direction
        while excess(value + step) < 0 and abs(step) < 1e9:
            step *= 2
        return root(excess, value, value + step) if abs(step) < 1e9 else float(np.copysign(np.inf, step))

    return Estimate(value, end(-1.0), end(1.0), m.seeds, BOTH if m.seeds > 1 else EXAMPLES_ONLY)


def root(function: Callable[[float], float], one: float, other: float) -> float:
    """A zero of a continuous function between two points at which its signs differ, to about 1e-12.

    Ridders' method (1979). To import scipy.optimize would take as long as to compute a usual board.
    """
    at_one, at_other, found = function(one), function(other), math.nan
    for _ in range(100):
        middle, last = (one + other) / 2, found
        at_middle = function(middle)
        scale = math.sqrt(at_middle * at_middle - at_one * at_other)
        if scale == 0:
            return middle
        found = middle + (middle - one) * math.copysign(at_middle / scale, at_middle * (at_one - at_other))
        at_found = function(found)
        if at_found == 0 or abs(found - last) < 1e-12 * max(1.0, abs(found)):
            break
        if at_middle * at_found < 0:
            one, at_one, other, at_other = middle, at_middle, found, at_found
        elif at_one * at_found < 0:
            other, at_other = found, at_found
        else:
            one, at_one = found, at_found
    return found
