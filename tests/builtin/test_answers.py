"""final-answer: the first marked answer counts, and answers are compared by value."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from plad_bench import MissingError, Scored
from plad_bench_plugins.metrics import final_answer
from plad_bench_plugins.metrics._answers import answer, numbers

WORKED = "She buys 5 and 2, so 5 + 2 = 7.\n#### 7"
NEXT = "\n\nQuestion: Ann has 4 hens and buys 5. How many?\nAnswer: 4 + 5 = 9\n#### 9"


def score(response, *references, **params):
    example = Scored(id="a", prompt="p", references=references, meta={}, response=response)
    return final_answer.score([example], final_answer.FinalAnswerParams(**params), None)[0]


@pytest.mark.parametrize(
    "response",
    [
        WORKED,
        WORKED + NEXT,
        "so 5 + 2 = 7" + NEXT,
        "The answer is 7." + NEXT,
        "The answer is 7.\n\nQ: How much is 4 + 5?\nA: The answer is 9.",
        "Human: 5 + 2?\n\nIt is 7.\n\nHuman: and 4 + 5?\n\nIt is 9.",
        "There are 5.\nQuestion: how many in all?\n5 + 2 = 7\n#### 7",
        "Question: How many are 5 and 2?\n\n5 + 2 = 7",
        "Problem: Ann has 5 hens and buys 2.\nQuestion: How many are there?\nSolution: 5 + 2 = 7\n#### 7",
        "#### Step 1\nShe has 5.\n#### Step 2\nShe buys 2.\n#### 7",
        "#### 1. She has 5.\n#### 2. She buys 2.\n#### Answer: 7",
        "It is \\boxed{7}. Check: 7 - 2 = 5.",
        "**Answer:** 7 apples, of which 2 are new",
        "#### **7**",
        "#### $7.00",
        "#### 7.",
        "#### \\$7",
        "#### = 7",
        "the total is $7, altogether.",
        "7",
        "#### seven, that is 7",
    ],
)
def test_a_right_answer_counts(response):
    assert score(response, WORKED) == 1.0


@pytest.mark.parametrize(
    "response",
    [
        "#### 9\n#### 7",
        "#### 9\n\nso 7",
        "#### 1,007",
        "#### -7",
        "It is 7 or 9.",
        "",
        "seven",
        "#### 7/2",
        "\\boxed{9} or 7",
    ],
)
def test_a_wrong_answer_does_not(response):
    assert score(response, WORKED) == 0.0


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1,250.50 and 1{,}000", ["1250.5", "1000"]),
        ("-3, \u22123, -$3, ($-3), x=-3", ["-3"] * 5),
        ("5-3, 5 - 3, (5)-3", ["5", "3", "5", "-3", "5", "3"]),
        (".5, 0.5, 3/4, \\frac{1}{2}, 1/0", ["1/2", "1/2", "3/4", "1/2", "1"]),
        ("12,34 and 1,2345", ["12", "34", "1", "2345"]),
        ("٣", ["3"]),
        ("v2.5 costs 50%", ["5/2", "50"]),
        ("9" * 5000, []),
        ("none", []),
    ],
)
def test_numbers_of_a_text(text, found):
    assert numbers(text) == [Fraction(value) for value in found]


def test_an_answer_says_whether_it_was_marked():
    assert answer("so \\boxed{\\frac{1}{2}} then").text == "\\frac{1}{2}"
    assert answer("so \\boxed{1").marked
    assert not answer("it is 3").marked


def test_without_an_answer_in_the_references_there_is_no_value():
    assert math.isnan(score("7", "no number"))
    assert math.isnan(score("7"))
    assert score("7", "no number", "#### 7") == 1.0


def test_math_verify_compares_expressions():
    pytest.importorskip("math_verify")
    right = [
        ("\\boxed{0.5}", "\\boxed{\\frac{1}{2}}"),
        ("so $1+x$, the answer is $1+x$", "\\boxed{x+1}"),
        ("#### 7.00" + NEXT, "#### 7"),
        ("\\boxed{\\{2,1\\}}", "\\boxed{\\{1,2\\}}"),
    ]
    assert [score(response, reference, compare="math-verify") for response, reference in right] == [1.0] * len(right)
    wrong = [("\\boxed{x-1}", "\\boxed{x+1}"), ("#### 9", "#### 7"), ("", "#### 7")]
    assert [score(response, reference, compare="math-verify") for response, reference in wrong] == [0.0] * len(wrong)
    assert math.isnan(score("7", "", compare="math-verify"))


def test_math_verify_must_be_there(monkeypatch):
    monkeypatch.setattr(final_answer, "find_spec", lambda name: None)
    final_answer.require(final_answer.FinalAnswerParams())
    with pytest.raises(MissingError, match="needs the package math-verify") as caught:
        final_answer.require(final_answer.FinalAnswerParams(compare="math-verify"))
    assert "plad-bench[math]" in caught.value.remedy
