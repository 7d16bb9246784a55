"""Intervals, tests and ranks against plain formulas, and against the truth in simulations."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from scipy import stats as scipy_stats

from plad_bench.leaderboard import statistics

_coverage = Path(__file__).parents[2] / "benchmarks" / "coverage.py"
_spec = importlib.util.spec_from_file_location("coverage_benchmark", _coverage)
benchmark = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(benchmark)


def rng():
    return np.random.default_rng(11)


def mean_squares(x):
    """Two-way ANOVA written plainly."""
    seeds, examples = x.shape
    m, row, column = x.mean(), x.mean(1), x.mean(0)
    seed = examples * sum((r - m) ** 2 for r in row) / (seeds - 1)
    example = seeds * sum((c - m) ** 2 for c in column) / (examples - 1)
    residual = sum((x[s, e] - row[s] - column[e] + m) ** 2 for s in range(seeds) for e in range(examples))
    return seed, example, residual / ((seeds - 1) * (examples - 1))


def test_moments_are_the_mean_squares_of_a_two_way_analysis_of_variance():
    x = rng().normal(size=(4, 9)) + rng().normal(size=(4, 1)) + rng().normal(size=(1, 9))
    m = statistics.moments([x])
    assert [m.seed[0, 0], m.example[0, 0], m.residual[0, 0]] == pytest.approx(mean_squares(x))


def test_interval_is_the_formula_of_the_documentation():
    x = rng().normal(size=(5, 40)) + rng().normal(0, 0.5, (5, 1)) + rng().normal(0, 2, (1, 40))
    seed, example, residual = mean_squares(x)
    variance = seed + example - residual
    share = seed / variance
    df = 1 / (share / 4 + (1 - share) / 39)
    half = scipy_stats.t.ppf(0.975, df) * np.sqrt(variance / 200)
    e = statistics.estimate(x)
    assert (e.value, e.low, e.high) == pytest.approx((x.mean(), x.mean() - half, x.mean() + half))
    assert (e.n_seeds, e.label) == (5, "seeds and examples")


def test_one_seed_is_students_t_over_examples_and_says_so():
    x = rng().normal(size=50)
    expected = scipy_stats.ttest_1samp(x, 0).confidence_interval(0.95)
    e = statistics.estimate(x[None])
    assert (e.low, e.high) == pytest.approx((expected.low, expected.high))
    assert e.label == "examples only"


def test_paired_test_of_one_seed_is_the_paired_t_test():
    a, b = rng().normal(size=(2, 60)) + np.linspace(0, 3, 60)
    pairs = statistics.pairwise(statistics.moments([a[None], b[None]]))
    assert pairs.p(0, 1) == pytest.approx(scipy_stats.ttest_rel(a, b).pvalue)
    assert pairs.difference[0, 1] == -pairs.difference[1, 0] == pytest.approx((a - b).mean())


def test_pairwise_from_products_equals_the_interval_of_the_difference():
    scores = list(rng().normal(size=(4, 3, 50)) + rng().normal(0, 0.4, (4, 3, 1)))
    pairs = statistics.pairwise(statistics.moments(scores))
    for i, k in [(0, 1), (2, 3), (3, 0)]:
        assert pairs.half_width(i, k, statistics.LEVEL) == pytest.approx(
            statistics.estimate(scores[i] - scores[k]).half_width
        )


def test_pairing_removes_what_methods_share():
    shared = rng().normal(0, 5, (5, 1)) + rng().normal(0, 5, (1, 100))
    a, b = (shared + rng().normal(size=(5, 100)) + gain for gain in (0.5, 0.0))
    pairs = statistics.pairwise(statistics.moments([a, b]))
    assert pairs.half_width(0, 1) < statistics.estimate(a).half_width / 10


def test_a_fixed_reference_counts_for_every_seed():
    fixed, x = rng().normal(size=(1, 30)), rng().normal(size=(4, 30))
    pairs = statistics.pairwise(statistics.moments([x, fixed]))
    assert pairs.half_width(0, 1) == pytest.approx(statistics.estimate(x - fixed).half_width)


def test_filled_gaps_keep_the_mean_of_what_is_there_and_its_error():
    x = rng().normal(3, 1, (1, 200))
    x[0, ::4] = np.nan
    e = statistics.estimate(x)
    present = x[~np.isnan(x)]
    assert e.value == pytest.approx(present.mean())
    assert e.half_width == pytest.approx(1.96 * present.std(ddof=1) / np.sqrt(present.size), rel=0.03)
    full = rng().normal(size=(2, 5))
    assert statistics.fill(full) is full


def test_a_seed_without_any_score_gives_no_number():
    x = np.vstack([np.ones(4), np.full(4, np.nan)])
    assert np.isnan(statistics.estimate(x).value)
    assert statistics.pairwise(statistics.moments([x, np.ones((2, 4))])).p(0, 1) == 1


def test_seeds_that_agree_by_luck_do_not_make_a_mean_certain():
    x = np.array([[0.0, 1.0, 0.0, 1.0], [1.0, 0.0, 1.0, 0.0]])  # no spread of means, neither of seeds nor of examples
    assert statistics.estimate(x).half_width > 0


def test_equal_scores_are_no_difference():
    x = rng().normal(size=(3, 20)) * 0.1
    pairs = statistics.pairwise(statistics.moments([x, x.copy()]))
    assert pairs.p(0, 1) == 1
    assert pairs.difference[0, 1] == 0


@pytest.mark.parametrize("value", [1e308, 1e-308])
def test_extreme_scores_neither_warn_nor_win(value):
    x = np.array([[value, 0.0, value], [0.0, value, value]])
    pairs = statistics.pairwise(statistics.moments([x, -x]))
    assert pairs.p_holm[0, 1] <= 1


def test_holm_agrees_with_a_hand_computed_family():
    adjusted, tests = statistics.holm(np.array([0.01, 0.04, 0.03, 0.005]))
    assert adjusted == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert tests.tolist() == [3, 2, 2, 4]  # the third is not rejected: what follows is at its level
    assert [a.size for a in statistics.holm(np.array([]))] == [0, 0]


def test_an_interval_leaves_out_nothing_exactly_where_a_pair_is_a_win():
    scores = list(rng().normal(size=(6, 4, 40)) + np.arange(6)[:, None, None] * 0.25)
    pairs = statistics.pairwise(statistics.moments(scores))
    wins = {(i, k): pairs.p_holm[i, k] < 0.05 for i in range(6) for k in range(6) if i != k}
    assert set(wins.values()) == {False, True}
    for (i, k), win in wins.items():
        assert win == (abs(pairs.difference[i, k]) > pairs.half_width(i, k))


def test_rank_intervals_count_the_tests_of_pairs():
    scores = [rng().normal(size=(5, 30)) * 0.01 + gain for gain in (1.0, 1.0, 0.0)]
    pairs = statistics.pairwise(statistics.moments(scores))
    assert [pairs.rank_interval(i) for i in range(3)] == [(1, 2), (1, 2), (3, 3)]
    assert pairs.best.tolist() == [True, True, False]


def test_the_best_are_those_that_no_other_beats_over_comparisons_with_them_alone():
    moments = statistics.moments(list(rng().normal(size=(5, 4, 40)) + np.array([0.45, 0, 0, 0, 0])[:, None, None]))
    pairs = statistics.pairwise(moments)
    for i in range(5):
        p = [
            float(statistics.p_value(*moments.contrast(k, i))) / 2
            for k in range(5)
            if moments.mean[k] > moments.mean[i]
        ]
        assert pairs.best[i] == (min(p, default=1.0) >= 0.05 / 4)


def test_many_methods_lend_each_other_their_variances():
    scores = rng().normal(size=(12, 3, 50)) + rng().normal(0, 0.3, (12, 3, 1))
    moments = statistics.moments(list(scores))
    few, many = (statistics.moderated(moments.only(slice(n))) for n in (statistics.MODERATED - 1, 12))
    assert few.prior is None
    assert many.prior is not None
    _, _, own = moments.contrast(0, 1)
    _, _, lent = many.contrast(0, 1)
    assert own < lent <= (1 + statistics.BORROWED) * own
    assert statistics.moderated(statistics.moments(list(scores[:, :1]))).prior is None


@pytest.mark.parametrize("unequal", [0.0, 1.0])
def test_the_truly_best_is_seldom_left_out_and_ranks_hold(unequal):
    out, _, _, missed = benchmark.first(rng(), 8, 5, spread=0.0, unequal=unequal, boards=300)
    assert out <= 0.09  # aim 5 %, standard error 1.3 points
    assert missed <= 0.09
    _, size, far, _ = benchmark.first(rng(), 24, 5, spread=4.0, unequal=0.0, boards=60)
    assert far <= 0.5
    assert 1 <= size < 15


def test_the_seeds_that_separate_are_those_at_which_the_minimum_is_as_small_as_the_difference():
    scores = list(
        rng().normal(size=(2, 4, 50)) + rng().normal(0, 0.4, (2, 4, 1)) + np.array([0.15, 0.0])[:, None, None]
    )
    pairs = statistics.pairwise(statistics.moments(scores))
    assert pairs.minimum(0, 1) > abs(pairs.difference[0, 1])
    assert 4 < pairs.seeds_to_separate(0, 1) <= 200
    same = statistics.pairwise(statistics.moments([scores[0], scores[0].copy()]))
    assert same.seeds_to_separate(0, 1) is None


def test_minimum_detectable_difference_is_the_formula():
    expected = (scipy_stats.t.ppf(0.975, 4) + scipy_stats.t.ppf(0.8, 4)) * 0.3
    assert float(statistics.minimum_detectable(0.3, 4.0)) == pytest.approx(expected)
    of_six = (scipy_stats.t.ppf(1 - 0.025 / 6, 4) + scipy_stats.t.ppf(0.8, 4)) * 0.3
    assert float(statistics.minimum_detectable(0.3, 4.0, 6)) == pytest.approx(of_six)


def test_gap_closed_is_a_ratio_with_fiellers_interval_and_blank_without_a_gap():
    shared = rng().normal(0, 3, (1, 200))
    start, teacher = shared + rng().normal(0, 1, (5, 200)), shared + 4 + rng().normal(0, 1, (1, 200))
    method = shared + 3 + rng().normal(0, 1, (5, 200))
    gap = statistics.gap_closed(statistics.moments([method, start, teacher]))
    assert gap.value == pytest.approx((method.mean() - start.mean()) / (teacher.mean() - start.mean()))
    for end in (gap.low, gap.high):  # at either end the paired test is just not rejected
        e = statistics.estimate(method - start - end * (np.broadcast_to(teacher, start.shape) - start))
        assert abs(e.value) == pytest.approx(e.half_width, rel=1e-6)
    assert gap.low < gap.value < gap.high
    assert statistics.gap_closed(statistics.moments([method, start, start + rng().normal(0, 1, (5, 200))])) is None
    assert statistics.gap_closed(statistics.moments([method, teacher, start])) is None  # a teacher that is worse


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x - 3,
        lambda x: x**3 - 27,
        lambda x: np.exp(-x) - np.exp(-3),
        lambda x: np.sign(x - 3) * abs(x - 3) ** 0.3,
    ],
)
def test_a_root_is_found_between_points_of_different_signs(function):
    for one, other in ((1e-3, 500.0), (500.0, 1e-3), (3.0, 7.0), (2.0, 3.0), (1.0, 5.0)):
        assert statistics.root(function, one, other) == pytest.approx(3.0, rel=1e-9)


# ------------------------------------------------------------------------------------------ simulations: 600 boards


@pytest.mark.parametrize("seeds", [3, 5, 10])
@pytest.mark.parametrize("share", [0.9, 0.5, 0.0])
def test_intervals_hold_the_truth(seeds, share):
    shape = (600, seeds, 100)
    for paired in (False, True):
        assert 0.925 <= benchmark.covered(benchmark.normal(rng(), share, shape, paired=paired)) <= 0.99


def test_equal_methods_tie():
    assert benchmark.tied(benchmark.binary(rng(), 0.1, 0.3, (400, 5, 100), 4)) >= 0.94


def test_twice_the_printed_minimum_is_found():
    assert benchmark.found(rng(), 0.5, (150, 5, 100), 2, 2) >= 0.95
    assert benchmark.found(rng(), 0.9, (150, 3, 100), 4, 2) >= 0.95
    assert 0.6 <= benchmark.found(rng(), 0.5, (150, 5, 100), 4, 1) <= 0.95


def test_gap_closed_holds_the_truth():
    share, shown = benchmark.gap_covered(rng(), 0.5, (200, 5, 100))
    assert share >= 0.90
    assert shown > 0.9
