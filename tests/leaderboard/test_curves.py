"""The metric that ranks during training: curves, costs at each point, and the best method there."""

from __future__ import annotations

import numpy as np
import pytest
from synthetic import put, record

from plad_bench.leaderboard.loading import load
from plad_bench.render import html, markdown, plots
from plad_bench.render.write import render_board

SEEDS, EXAMPLES = 3, 60
MEANS = {"kd": (0.50, 0.30, 0.20), "sft": (0.40, 0.30, 0.28)}  # errors after 25 %, after 50 % and at the end
NAMES = {25: "errors at 25%", 50: "errors at 50%", 100: "errors"}


def scores(mean, seed, method):
    hard = np.random.default_rng(7).normal(0, 0.05, EXAMPLES)
    rng = np.random.default_rng([seed, len(method), int(1000 * mean)])
    return (mean + hard + rng.normal(0, 0.01, EXAMPLES), "lower", "%")


def made(board, method, seed, means, *, ends=tuple(NAMES), **changes):
    columns = {NAMES[at]: scores(mean, seed, method) for at, mean in zip(NAMES, means, strict=True) if at in ends}
    data, raw = record(method, seed, columns=columns, **changes)
    for at in (25, 50):
        if at in ends:
            data["metrics"][NAMES[at]]["point"] = {"metric": "errors", "percent": at}
    whole = {"tokens_trained": 4000.0, "update_device_seconds": 8.0, "train_device_seconds": 11.0}
    data["cost"] = {**whole, "teacher_device_seconds": 6.0}
    data["points"] = {
        str(at): {"tokens_trained": 40.0 * at, "update_device_seconds": 0.08 * at} for at in (25, 50) if at in ends
    }
    put(board, data, raw)


@pytest.fixture
def board(tmp_path):
    place = tmp_path / "b"
    for method, means in MEANS.items():
        for seed in range(SEEDS):
            made(place, method, seed, means)
    for seed in range(SEEDS):
        data, raw = record("sft-init", seed, columns={"errors": scores(0.6, seed, "sft-init")}, access="")
        put(place, data, raw)
    (place / "board.toml").write_text('[prices]\ndevice_hour = 3600.0\ncurrency = "EUR"\n')
    return place


def group_of(board):
    (group,) = load(board).groups
    return group


def test_a_point_is_no_column_and_does_not_rank(board):
    group = group_of(board)
    assert [metric.name for metric in group.metrics] == ["errors"]
    assert [row.label for row in group.rows] == ["kd", "sft"]


def test_a_curve_goes_from_the_sft_initialisation_to_the_end_with_its_costs(board):
    (kd,) = (curve for curve in group_of(board).curves if curve.label == "kd")
    assert [point.percent for point in kd.points] == [0, 25, 50, 100]
    assert [point.estimate.value for point in kd.points] == pytest.approx([0.6, *MEANS["kd"]], abs=0.02)
    assert [point.tokens for point in kd.points] == [0, 1000, 2000, 4000]
    assert [point.seconds for point in kd.points] == [1, 3, 5, 9], "a sixth of the teacher's 6 s is its share"
    assert [point.money for point in kd.points] == pytest.approx([6, 8, 10, 14]), "all of the teacher, as if alone"


def test_the_best_method_of_each_point_is_tested_as_ranks_are(board):
    leaders = {leader.percent: leader for leader in group_of(board).leaders}
    assert (leaders[25].label, leaders[25].others) == ("sft", ())
    assert (leaders[100].label, leaders[100].others) == ("kd", ())
    assert len(leaders[50].others) == 1, "equal means"


def test_a_single_seed_is_not_tested(tmp_path):
    for method, means in MEANS.items():
        made(tmp_path, method, 0, means)
    assert {leader.others for leader in group_of(tmp_path).leaders} == {None}
    assert "not tested: a single seed" in markdown.render(load(tmp_path))


def test_a_point_that_a_seed_lacks_is_left_out(board):
    made(board, "kd", 2, MEANS["kd"], ends=(25, 100))
    group = group_of(board)
    (kd,) = (curve for curve in group.curves if curve.label == "kd")
    assert [point.percent for point in kd.points] == [0, 25, 100]
    assert [leader.percent for leader in group.leaders] == [25, 100]


def test_pages_show_curves_and_leaders(board):
    files = render_board(board)
    names = {path.name for path in files}
    assert {"tokens.svg", "time.svg", "money.svg"} <= names
    page = files[board / "README.md"].decode()
    assert "## During training" in page
    assert "| 25 % | `sft` |" in page
    assert "significantly the best" in page
    assert "not significantly better than `" in page
    (tokens,) = (data.decode() for path, data in files.items() if path.name == "tokens.svg")
    assert tokens.count("<circle") == 8
    assert "EUR" in next(data.decode() for path, data in files.items() if path.name == "money.svg")
    assert "errors during training" in html.render(load(board))


def test_a_page_says_that_a_budget_of_money_needs_its_prices(tmp_path):
    for method, means in MEANS.items():
        made(tmp_path, method, 0, means, protocol={"budget": "money=5", "steps": 300})
    page = markdown.render(load(tmp_path))
    assert "a budget of 5 in money" in page
    assert "copy its [prices]" in page


def test_pages_without_points_have_none_of_this(tmp_path):
    for method, means in MEANS.items():
        for seed in range(SEEDS):
            made(tmp_path, method, seed, means, ends=(100,))
    group = group_of(tmp_path)
    assert (group.curves, group.leaders) == ((), ())
    for draw in (plots.against_tokens, plots.against_time, plots.against_money):
        assert draw(group) is None
    assert "During training" not in markdown.render(load(tmp_path))
