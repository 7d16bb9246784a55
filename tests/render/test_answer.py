"""What a page says first: the answer to the question of its board, and how sure it is."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
from synthetic import page, put, record

from plad_bench.leaderboard.loading import load
from plad_bench.render import answer, pieces


def answered(tmp_path, means, *, seeds=5, better="higher", spread=0.1, teacher=None):
    """The answer of a board with methods of these means, as its page has it."""
    rng = np.random.default_rng(1)
    hard = rng.normal(0, 1, 60)
    rows = [*means.items(), *({"teacher": teacher, "sft-init": 0.0}.items() if teacher is not None else ())]
    for name, mean in rows:
        for seed in range(1 if name == "teacher" else seeds):
            values = mean + hard + rng.normal(0, spread) + rng.normal(0, 0.1, 60)
            put(tmp_path, *record(name, seed, columns={"m": (values, better, "")}))
    (tmp_path / "board.toml").write_text(f"seeds_asked = {seeds}\n")
    return page(tmp_path).split("\n\n")[1]


def test_a_single_seed_is_a_trial_without_ranks(tmp_path):
    text = answered(tmp_path, {"kd": 2.0, "sft": 1.0}, seeds=1)
    assert text.startswith("One seed is a trial: `kd` has the highest mean m (")
    (group,) = load(tmp_path).groups
    assert group.pairs is None
    assert [(row.label, row.rank, row.best) for row in group.rows] == [("kd", None, False), ("sft", None, False)]
    assert "† Means with 95 % intervals over the examples of a single record." in page(tmp_path)
    assert not re.search(r"★|Win-tie-loss|Gap closed|\| Rank \||Pairwise comparisons", page(tmp_path))


def test_a_clear_winner_is_named_with_what_it_beats(tmp_path):
    text = answered(tmp_path, {"kd": 3.0, "sft": 1.0, "plad": 2.0})
    assert text.startswith("`kd` has the highest mean m (")
    assert ") and is significantly better than all 2 others. It beats `plad` by 0.9 ± " in text
    assert "5 seeds, 60 examples, 300 steps; every method with its default settings)" in text


def test_settings_in_the_names_of_methods_are_not_called_defaults(tmp_path):
    text = answered(tmp_path, {"kd": 3.0, "kd[temperature=2]": 1.0})
    assert "300 steps; every method with the settings in its name and otherwise its defaults)" in text


def test_methods_that_cannot_be_told_apart_are_named_with_the_seeds_that_would(tmp_path):
    text = answered(tmp_path, {"kd": 2.05, "plad": 2.0, "sft": 0.0})
    assert re.search(r"It is not significantly better than `\w+`\. Its lead over `\w+` is 0\.\d+ ± 0\.\d+", text)
    assert " and " not in text.partition("better than")[2].partition(".")[0]
    assert re.search(r": about \d+ seeds would be needed to confirm that difference\.", text)


@pytest.mark.parametrize(
    ("labels", "words"),
    [("a", "a"), ("ab", "a and b"), ("abcde", "a, b, c, d and e"), ("abcdef", "a, b, c, d and 2 others")],
)
def test_a_few_tied_methods_are_all_named_and_of_many_the_rest_is_counted(labels, words):
    assert pieces.plain(answer._names([SimpleNamespace(label=label) for label in labels])) == words


def test_a_metric_that_rates_the_teacher_below_the_start_is_called_unfit(tmp_path):
    assert answered(tmp_path, {"kd": 2.0, "sft": 1.0}, teacher=-1.0).startswith("m cannot rank distillation")
    assert "cannot rank" not in answered(tmp_path / "b", {"kd": 2.0, "sft": 1.0}, teacher=3.0)


def test_many_truncated_or_empty_responses_are_told_with_the_seeds_that_stand_out(tmp_path):
    shares = {"sft": (6, 7, 60), "kd": (1, 2, 0), "plad": (12, 12, 12), "gkd": (57, 0, 60), "student": (60, 60, 60)}
    for name, truncated in shares.items():
        for seed, count in enumerate(truncated):
            data, scores = record(name, seed, columns={"m": (np.arange(60.0) + seed, "higher", "")})
            data["counts"] = {"generate.truncated": count, "generate.empty": 30 * (name == "plad")}
            put(tmp_path, data, scores)
    (tmp_path / "board.toml").write_text("seeds_asked = 3\n")
    text = page(tmp_path)
    often = (
        "65 % of the responses of `gkd` (95 to 100 % in seeds 0 and 2), 41 % of `sft` (100 % in seed 2), 20 % of `plad`"
    )
    assert f"Truncated at 96 tokens: {often}. Look" in text
    assert "Empty: 50 % of the responses of `plad`." in text
