"""Statistics of several samples of one prompt, by counting all draws."""

from __future__ import annotations

import itertools
import math

import pytest

from plad_bench.plan.sampled import powers
from plad_bench.records import sampled


@pytest.mark.parametrize("values", [[1, 0, 0, 1, 0], [0, 0, 0], [1, 1], [1]])
def test_pass_at_k_is_the_share_of_draws_with_a_success(values):
    for k in range(1, len(values) + 1):
        draws = list(itertools.combinations(values, k))
        assert sampled.pass_at(k, values, 1.0) == pytest.approx(sum(1 in draw for draw in draws) / len(draws))


def test_pass_at_1_of_a_metric_of_0_and_1_is_its_mean():
    values = [0.0, 1.0, 1.0, 0.0, 1.0]
    assert sampled.pass_at(1, values, 1.0) == pytest.approx(sampled.mean(values))


def test_a_success_is_the_declared_value():
    assert sampled.pass_at(1, [0.0, 0.25, 0.5, 1.0], 0.0) == pytest.approx(1 / 4)


def test_samples_without_a_value_do_not_count():
    assert sampled.mean([None, 1.0, 0.5]) == pytest.approx(0.75)
    assert sampled.pass_at(2, [None, 1.0, 0.0, 0.0], 1.0) == pytest.approx(2 / 3)
    assert math.isnan(sampled.mean([None, None]))
    assert math.isnan(sampled.pass_at(2, [None, 1.0], 1.0))


def test_large_numbers_of_samples_stay_exact():
    assert sampled.pass_at(1000, [0.0] * 1999 + [1.0], 1.0) == pytest.approx(0.5)


@pytest.mark.parametrize(("samples", "ks"), [(1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])])
def test_k_doubles_up_to_the_number_of_samples(samples, ks):
    assert powers(samples) == ks
