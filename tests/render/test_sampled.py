"""Sampled responses on a page: their table and their plot."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import PROTOCOL, put, record

from plad_bench.leaderboard.loading import load
from plad_bench.render import page_model, plots
from plad_bench.render.pieces import plain
from plad_bench.render.tabular_export import estimates

SAMPLED = {  # what 4 samples of 40 prompts give: column -> (statistic, better)
    "final-answer avg@4": (("final-answer", "avg", 4), "higher"),
    "final-answer pass@4": (("final-answer", "pass", 4), "higher"),
    "final-answer pass@2": (("final-answer", "pass", 2), "higher"),
    "rouge-l avg@4": (("rouge-l", "avg", 4), "higher"),
    "sample-diversity": (("sample-diversity", "set", 4), None),
}
TRUE = {"teacher": 0.9, "sft-init": 0.3, "seqkd": 0.7, "kd": 0.5}


@pytest.fixture
def board(tmp_path):
    rng = np.random.default_rng(1)
    hardness = rng.normal(0, 0.05, 40)
    for row, quality in TRUE.items():
        for seed in range(1 if row == "teacher" else 3):
            values = {
                name: (np.clip(quality + hardness + rng.normal(0, 0.02, 40), 0, 1), better, "%")
                for name, (_, better) in SAMPLED.items()
            }
            greedy = {
                "final-answer": (rng.binomial(1, quality, 40).astype(float), "higher", "%"),
                "rouge-l": (values["rouge-l avg@4"][0] + 0.01, "higher", "%"),
            }
            data, scores = record(
                row, seed, columns={**greedy, **values}, params={}, protocol={**PROTOCOL, "evaluate_samples": 4}
            )
            for name, ((metric, kind, k), _) in SAMPLED.items():
                data["metrics"][name]["sampled"] = {"metric": metric, "kind": kind, "k": k}
            put(tmp_path, data, scores)
    (tmp_path / "board.toml").write_text('metrics = ["final-answer", "rouge-l"]\n[protocol]\nevaluate_samples = 4\n')
    return load(tmp_path)


def table(board):
    found = next(section for section in page_model.sections(board.groups[0]) if section.kind == "sampled")
    return [plain(column.line) for column in found.table.columns], found.table.rows, plain(found.note)


def test_columns_of_samples_are_no_columns_of_greedy_responses(board):
    assert board.problems == ()
    (group,) = board.groups
    assert [metric.name for metric in group.metrics] == ["final-answer", "rouge-l"]
    assert group.primary.name == "final-answer"
    names = [info.name for info in group.sampled]
    assert names == [*(f"final-answer {k}" for k in ("avg@4", "pass@2", "pass@4")), "rouge-l avg@4", "sample-diversity"]
    assert {row["metric"] for row in estimates([board])} == {"final-answer", "rouge-l", *names}


def test_the_table_has_the_metric_that_ranks_beside_its_samples(board):
    head, rows, note = table(board)
    assert [line.replace("\u200c", "") for line in head] == [
        "Method", "greedy final-answer (%) ↑", "final-answer avg@4 (%) ↑", "final-answer pass@2 (%) ↑",
        "final-answer pass@4 (%) ↑", "sample-diversity (%)", "Seeds",
    ]  # fmt: skip
    assert [plain(row[0].line) for row in rows] == ["teacher", "sft-init", "seqkd", "kd"]
    assert [row[2].number for row in rows] == pytest.approx([TRUE[plain(row[0].line)] for row in rows], abs=0.05)
    assert "4 sampled responses to each prompt at temperature 0.7" in note


def test_an_interval_counts_each_prompt_once(board):
    """The spread over 40 prompts, whatever the number of samples of each."""
    row = next(row for row in board.groups[0].rows if row.label == "seqkd")
    assert row.estimates["final-answer avg@4"].half_width > 2 * 0.05 / 40**0.5 * 0.7
    assert row.estimates["final-answer avg@4"].n_seeds == 3


def test_the_plot_shows_quality_against_diversity_of_every_model_but_the_untrained(board):
    drawn = plots.diversity(board.groups[0])
    assert all(f">{name}<" in drawn for name in TRUE)
    assert "final-answer avg@4 against diversity" in drawn
    assert "polyline" not in drawn


def test_a_board_without_samples_has_neither(tmp_path):
    for seed in range(2):
        put(tmp_path, *record("kd", seed, columns={"rouge-l": (np.linspace(0, 1, 9), "higher", "%")}))
    (group,) = load(tmp_path).groups
    assert group.sampled == ()
    assert "sampled" not in [section.kind for section in page_model.sections(group)]
    assert plots.diversity(group) is None
