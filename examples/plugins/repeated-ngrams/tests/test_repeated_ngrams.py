"""repeated-ngrams keeps the claims of check-plugin, computes its formula, and gets a column on a board."""

import math

import pytest

from repeated_ngrams import plugin
from repeated_ngrams.ngrams import repeated


def test_it_keeps_every_claim(plad_bench_check):
    plad_bench_check(plugin)


@pytest.mark.parametrize(
    ("text", "n", "share"),
    [
        ("a b c", 1, 0),
        ("a a a a", 1, 3 / 4),
        ("A b a B", 2, 1 / 3),
        ("the cat the cat the cat", 2, 3 / 5),
        ("a b", 2, 0),
    ],
)
def test_it_is_its_formula(text, n, share):
    assert repeated(text, n) == pytest.approx(share)


@pytest.mark.parametrize("text", ["", "two words"])
def test_a_response_that_is_too_short_has_no_value(text):
    assert math.isnan(repeated(text, 3))


def test_it_gets_a_column(throwaway_board):
    (group,) = throwaway_board(plugin, methods="sft", metrics="rouge-l,repeated-ngrams[n=1]").groups
    assert 0 <= group.rows[0].estimates["repeated-ngrams[n=1]"].value <= 1
