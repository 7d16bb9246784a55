"""The text metrics on cases worked out by hand."""

# ruff: noqa: RUF001  other scripts are what is tested

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny

from plad_bench import Metric, Scored, UnmeasuredError
from plad_bench.execute.stages import data
from plad_bench.records import storage
from plad_bench_plugins.metrics import agreement, length, rouge, win

METRICS: dict[str, Metric] = {m.name: m for module in (agreement, length, rouge, win) for m in module.RECORDS}


def scored(response: str, *references: str, teacher: str | None = None) -> Scored:
    return Scored(id="a", prompt="p", references=references, meta={}, response=response, teacher=teacher)


def scorers(selector: str) -> Callable[[Sequence[Scored]], Sequence[float]]:
    """The metrics of this file, two that read no reference, and a count of calls."""
    scorers.calls.append(selector)
    if selector == "shortest":
        return lambda examples: [-float(len(e.response.split())) for e in examples]
    if selector == "never":
        return lambda examples: [math.nan for _ in examples]
    return lambda examples: values(selector, *examples)


scorers.calls = []


def values(name: str, *examples: Scored, **params: Any) -> list[float]:
    metric = METRICS[name]
    return list(metric.score(examples, metric.params(**params), scorers))


# ------------------------------------------------------------------------------------------------------- ROUGE


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("rouge-1", 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)),  # the, cat, sat of 4 and of 5 words
        ("rouge-2", 2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4)),  # "the cat" of 3 and of 4 pairs
        ("rouge-l", 2 * (3 / 4) * (3 / 5) / (3 / 4 + 3 / 5)),  # the cat sat
    ],
)
def test_rouge_by_hand(name, expected):
    assert values(name, scored("the cat now sat", "the cat quietly has sat")) == [pytest.approx(expected)]


def test_rouge_l_minds_the_order_and_rouge_1_does_not():
    example = scored("c b a", "a b c")
    assert values("rouge-1", example) == [1.0]
    assert values("rouge-l", example) == [pytest.approx(1 / 3)]


@pytest.mark.parametrize("name", ["rouge-1", "rouge-2", "rouge-l"])
def test_rouge_takes_the_best_reference_in_any_order(name):
    best, other = "the dog ran home", "nothing alike here"
    assert values(name, scored(best, other, best), scored(best, best, other), scored(best, other)) == [1.0, 1.0, 0.0]


@pytest.mark.parametrize("name", ["rouge-1", "rouge-2", "rouge-l"])
def test_rouge_of_nothing(name):
    empty_response, empty_reference, no_reference = values(name, scored("", "a b"), scored("a b", ""), scored("a b"))
    assert (empty_response, empty_reference) == (0.0, 0.0)
    assert math.isnan(no_reference)
    assert values(name) == []


SCRIPTS = {
    "Chinese": ("红色的狐狸在河边。", "蓝色的狗在山边。"),
    "Japanese": ("赤い狐が川のそばにいる。", "青い犬が山にいる。"),
    "Thai": ("สุนัขสีแดงอยู่ริมแม่น้ำ", "แมวสีเขียวอยู่บนภูเขา"),
    "Hindi": ("लाल लोमड़ी नदी के पास है", "नीला कुत्ता पहाड़ पर है"),
    "Arabic": ("الثعلب الأحمر عند النهر", "الكلب الأزرق على الجبل"),
    "Russian": ("Красная лиса у реки", "Синий пёс на горе"),
    "Korean": ("붉은 여우가 강가에 있다", "푸른 개가 산에 있다"),
    "Greek": ("Η κόκκινη αλεπού στο ποτάμι", "Ο μπλε σκύλος στο βουνό"),
    "Amharic": ("ቀይ ቀበሮ በወንዝ አጠገብ", "ሰማያዊ ውሻ በተራራ ላይ"),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("name", ["rouge-1", "rouge-2", "rouge-l"])
def test_rouge_reads_every_script(name, script):
    text, other = SCRIPTS[script]
    same, different = values(name, scored(text, text), scored(text, other))
    assert same == 1.0
    assert different < 0.6


def test_words_of_every_script_are_counted():
    counted = {script: values("length", scored(text))[0] for script, (text, _) in SCRIPTS.items()}
    assert counted == {
        "Chinese": 8, "Japanese": 11, "Thai": 15, "Hindi": 6, "Arabic": 4, "Russian": 4, "Korean": 4, "Greek": 5,
        "Amharic": 4,
    }  # fmt: skip
    assert values("length", scored("用AI模型，“你好”")) == [6]


def test_words_that_differ_in_a_mark_are_different_words():
    assert values("rouge-1", scored("की", "कि"), scored("กี", "กิ")) == [0.0, 0.0]
    assert values("rouge-1", scored("cafe\u0301", "caf\u00e9"), scored("می\u200cروم", "میروم")) == [1.0, 1.0]
    assert values("rouge-1", scored("CAFÉ, £20", "café 20")) == [1.0]


def test_rouge_gives_no_number_where_there_is_no_word():
    unreadable, readable, none = values("rouge-1", scored("🎉🎉", "🎉🎉"), scored("🎉 one", "one"), scored("🎉", "one"))
    assert math.isnan(unreadable)
    assert (readable, none) == (1.0, 0.0)
    with pytest.raises(UnmeasuredError, match="no reference has a letter or a digit"):
        values("rouge-l", scored("🎉🎉", "🎉🎉"), scored("a", "☕"))


def test_metrics_that_compare_texts_compare_them_normalised():
    assert values("agreement", scored("cafe\u0301 x", teacher="caf\u00e9  x")) == [1.0]


def test_diversity_and_length_control_count_words_of_every_script():
    from plad_bench_plugins.metrics import diversity

    (repeated,) = diversity.distinct([scored("好的好的好的好的")], diversity.DistinctParams(n=1), None)
    assert repeated == 2 / 8
    (shared, _) = diversity.self_repetition(
        [scored("红狐在河边"), scored("蓝狗在河边")], diversity.RepetitionParams(n=3), None
    )
    assert shared == 1 / 3


def test_rouge_stems_unless_told_otherwise():
    example = scored("he was running", "he was runs")
    assert values("rouge-1", example) == [1.0]
    assert values("rouge-1", example, use_stemmer=False) == [pytest.approx(2 / 3)]


@pytest.mark.parametrize("use_stemmer", [True, False])
def test_rouge_equals_the_package_used_plainly(use_stemmer):
    from rouge_score.rouge_scorer import RougeScorer

    texts = [
        "The Eagle is a family-friendly coffee shop, near Burger King.",
        "Near\tBurger King there's a coffee-shop called The Eagle;\nfamilies are welcome!",
        "A £20-25 pub — the café's\u00a0bar\x1cnext_door, well-priced…",
    ]
    names = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL"}
    plain = RougeScorer(list(names.values()), use_stemmer=use_stemmer)
    for name, kind in names.items():
        for response in texts:
            ours = values(name, *(scored(response, reference) for reference in texts), use_stemmer=use_stemmer)
            assert ours == [plain.score(reference, response)[kind].fmeasure for reference in texts]


BOARD = Path(__file__).parents[2] / "leaderboards" / "demo"


@pytest.mark.parametrize("name", ["rouge-1", "rouge-2", "rouge-l", "length"])
def test_committed_values_of_english_text_are_what_these_metrics_give(name):
    prompts = {p.id: p for p in data.split(tiny.registry().get("task", "demo").load(None))}
    seen = 0
    for file in sorted(BOARD.glob("cells/**/*.samples.jsonl")):
        samples = [json.loads(line) for line in file.read_text().splitlines()]
        path = file.with_name(file.name.replace(".samples.jsonl", ".scores.parquet"))
        ids, columns = storage.read_scores(path, hashlib.sha256(path.read_bytes()).hexdigest())
        recorded = dict(zip(ids, columns[name].tolist(), strict=True))
        # what is longer than a sample may be is not there in full
        whole = [s for s in samples if len(s["response"]) < storage.LONGEST_SAMPLE]
        examples = [scored(s["response"], *prompts[s["example"]].references) for s in whole]
        assert values(name, *examples) == [recorded[s["example"]] for s in whole]
        seen += len(whole)
    assert seen > 100


# -------------------------------------------------------------------------------------------- length, agreement


def test_length_counts_words():  # as they always were where words stand between white space
    assert values("length", scored(""), scored(" \n"), scored("one"), scored("naïve\u00a0café — a b")) == [0, 0, 1, 5]
    assert METRICS["length"].better is None


def test_agreement_is_equality_up_to_white_space():
    pairs = [("a  b\n", " a b"), ("a b", "a B"), ("", "  "), ("", "a"), ("ab", "a b"), ("日本", "日本")]
    assert values("agreement", *(scored(r, teacher=t) for r, t in pairs)) == [1, 0, 1, 0, 0, 1]
    assert math.isnan(values("agreement", scored(""))[0])


# ------------------------------------------------------------------------------------------------------------ win


def test_win_over_the_teacher():
    reference = "a b c d"
    wins = values(
        "win-teacher",
        scored("a b c d", reference, teacher="a b"),
        scored("a b", reference, teacher="a b c d"),
        scored("x", reference, teacher="y z"),
        scored("", reference, teacher=""),
    )
    assert wins == [1.0, 0.0, 0.5, 0.5]


@pytest.mark.parametrize("text", ["", "a b", "naïve ☕"])
def test_a_text_ties_with_itself(text):
    assert values("win-teacher", scored(text, "a b c", teacher=text)) == [0.5]


def test_exchanged_sides_share_one_win():
    texts = ["", "a", "a b", "c a b d", "a b c d"]
    for one in texts:
        for other in texts:
            there, back = values(
                "win-teacher", scored(one, "a b c d", teacher=other), scored(other, "a b c d", teacher=one)
            )
            assert there + back == 1


def test_no_score_or_no_teacher_is_no_outcome():
    unjudged = values("win-teacher", scored("a", "b", teacher="c"), scorer="never")
    unread = values("win-teacher", scored("a", teacher="c"), scored("a", "a"))
    assert [math.isnan(value) for value in (*unjudged, *unread)] == [True] * 3


def test_win_over_references_is_their_average():
    wins = values("win-reference", scored("a b", "a", "a b c", "c d", ""), scored("", "a"), scorer="shortest")
    assert wins == [(0 + 1 + 0.5 + 0) / 4, 1.0]


def test_a_reference_never_meets_itself():
    # against "a b" the only reference left is "a b c d": a tie; against that one it is "a b", which the response copies
    assert values("win-reference", scored("a b", "a b", "a b c d"), scorer="rouge-l") == [(0.5 + 1) / 2]
    # left in the list, either reference would score 1 and the response lose; without it, the response is nearer
    # to the other reference than the opponent is
    assert values("win-reference", scored("a b x", "a b c", "b x d"), scorer="rouge-1") == [1.0]


def test_a_reference_based_scorer_needs_a_second_reference():
    wins = values("win-reference", scored("a", "a"), scored("a", "a b", " a  b"), scored("a"), scorer="rouge-l")
    assert all(math.isnan(win) for win in wins)
    assert values("win-reference", scored("a", "a b"), scorer="shortest") == [1.0]
    assert math.isnan(values("win-reference", scored("a"), scorer="shortest")[0])


@pytest.mark.parametrize("name", ["win-teacher", "win-reference"])
def test_the_scorer_is_called_once(name):
    scorers.calls.clear()
    values(name, *(scored("a", "b", "c d", teacher="e") for _ in range(5)), scorer="shortest")
    assert scorers.calls == ["shortest"]
