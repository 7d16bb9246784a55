"""The page over several boards: first places, and methods across tasks."""

import json
import re

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import PROTOCOL, component, put, record

from plad_bench.cli.main import cli
from plad_bench.contract.registry import Registry
from plad_bench.leaderboard.across_tasks import Standing, panels
from plad_bench.leaderboard.loading import load
from plad_bench.render.write import render as render_board
from plad_bench.render.write import render_index
from plad_bench.running.pages import render


def make(boards, name, means, *, seeds=3, task=None, better="higher", metric="m"):
    """A board of a task of its own on which methods have these means, far apart from each other."""
    rng = np.random.default_rng(5)
    part = {**component(task or name), "licence": "x", "redistributable": False}
    for method, mean in means.items():
        for seed in range(seeds):
            columns = {metric: (rng.normal(mean, 0.05, 30), better, "")}
            put(boards / name, *record(method, seed, columns=columns, task=part))
    (boards / name / "board.toml").write_text(f"seeds_asked = {seeds}\n")
    return load(boards / name)


A, B, C = (
    {"kd": 3.0, "plad": 2.0, "sft": 1.0},
    {"plad": 3.0, "kd": 2.0, "sft": 1.0},
    {"kd": 3.0, "sft": 2.0, "plad": 1.0},
)


def standings(panel):
    return {of.row.label: of.ranks for of in panel.standings}


def test_the_mean_rank_is_that_of_the_ranks_and_its_interval_students(tmp_path):
    (panel,) = panels([make(tmp_path, "a", A), make(tmp_path, "b", B), make(tmp_path, "c", C)])
    assert standings(panel) == {"kd": (1, 2, 1), "plad": (2, 1, 3), "sft": (3, 3, 2)}
    first = panel.standings[0]
    assert (first.row.label, first.rank) == ("kd", pytest.approx(4 / 3))
    half = 4.302653 * np.std([2, 1, 3], ddof=1) / np.sqrt(3)
    plad = next(of for of in panel.standings if of.row.label == "plad")
    assert plad.interval(100) == (1.0, pytest.approx(2 + half, rel=1e-5))
    assert plad.interval(3) == (1.0, 3.0)
    assert first.mean == pytest.approx(8 / 3, abs=0.05)


@pytest.mark.parametrize("ranks", [(2,), (1, 1), (3, 3, 3)])
def test_one_task_or_tasks_that_agree_give_no_interval(ranks):
    assert Standing(row=None, ranks=ranks, mean=None).interval(9) is None


def test_methods_that_a_board_lacks_are_named_and_the_others_ranked_among_themselves(tmp_path):
    (panel,) = panels([make(tmp_path, "a", {"opd": 9.0, **A}), make(tmp_path, "b", B)])
    assert standings(panel) == {"kd": (1, 2), "plad": (2, 1), "sft": (3, 3)}
    assert panel.partial == (("opd", 1),)


def test_no_plain_mean_over_different_metrics(tmp_path):
    (panel,) = panels([make(tmp_path, "a", A), make(tmp_path, "b", B, metric="other")])
    assert panel.metric is None
    assert {of.mean for of in panel.standings} == {None}


def test_lower_can_be_better(tmp_path):
    (panel,) = panels([make(tmp_path, "a", A, better="lower"), make(tmp_path, "b", B, better="lower")])
    assert standings(panel) == {"kd": (3, 2), "plad": (2, 3), "sft": (1, 1)}


def test_boards_of_other_seeds_or_of_the_same_task_are_not_taken_together(tmp_path):
    one = make(tmp_path, "a", A)
    assert panels([one]) == []
    assert panels([one, make(tmp_path, "b", B, seeds=2)]) == []
    assert panels([one, make(tmp_path, "c", C, task="a")]) == []
    more = make(tmp_path, "more", {"opd": 9.0, **C}, task="a")
    (panel,) = panels([one, more, make(tmp_path, "d", B)])
    assert panel.boards == (("more", "a"), ("d", "d"))


@pytest.mark.parametrize("few_first", [True, False])
def test_of_two_boards_of_a_task_the_one_with_more_methods_counts(tmp_path, few_first):
    few, many = ("a", "b") if few_first else ("b", "a")
    boards = [
        make(tmp_path, few, {"plad": 3.0, "kd": 1.0}, task="same"),
        make(tmp_path, many, {"sft": 3.0, "kd": 2.0, "plad": 1.0}, task="same"),
        make(tmp_path, "other", A),
    ]
    (panel,) = panels(sorted(boards, key=lambda board: board.name))
    assert panel.boards == (("other", "other"), (many, "same"))
    assert standings(panel) == {"kd": (1, 2), "plad": (2, 3), "sft": (3, 1)}


def test_of_two_boards_of_a_task_with_as_many_methods_the_first_counts(tmp_path):
    boards = [make(tmp_path, "a", A, task="same"), make(tmp_path, "b", B, task="same"), make(tmp_path, "other", C)]
    (panel,) = panels(boards)
    assert panel.boards == (("other", "other"), ("a", "same"))


def test_ranks_are_by_the_statistics_of_the_methods_that_all_boards_have(tmp_path):
    """Methods that only one board has tie there with others: rows and moments must stay together."""
    extra = {"twin": 3.0, "kd": 3.0, "plad": 2.0, "other": 2.0, "sft": 1.0, "third": 1.0}
    (panel,) = panels([make(tmp_path, "a", extra), make(tmp_path, "b", C)])
    assert standings(panel) == {"kd": (1, 1), "plad": (2, 3), "sft": (3, 2)}


def test_run_refreshes_the_page_over_all_boards(boards):
    leaderboard(boards)
    make(boards, "c", C)
    render(boards / "c", Registry.load())
    assert "[`c`](c/README.md)" in (boards / "README.md").read_text()
    assert leaderboard(boards, "--check").return_value == 0


def test_a_board_that_is_not_listed_leaves_the_page_over_all_alone(boards):
    render(boards / "quickstart", Registry.load())
    assert not (boards / "README.md").exists()


def test_a_broken_board_beside_costs_the_page_over_all_alone(boards, caplog):
    (boards / "b" / "board.toml").write_text("seeds_asked = none")
    render(boards / "a", Registry.load())
    assert (boards / "a" / "README.md").exists()
    assert not (boards / "README.md").exists()
    assert "index page was not updated" in caplog.text


def test_a_mean_rank_is_of_places_by_mean_and_not_of_ties(tmp_path):
    """A noisy method that is far behind must not stand before a steady one because its test finds nothing."""
    means = {"kd": 3.0, "plad": 2.0, "sft": 1.0}
    (panel,) = panels([make(tmp_path, "a", means), make(tmp_path, "b", means)])
    assert standings(panel) == {"kd": (1, 1), "plad": (2, 2), "sft": (3, 3)}


# --------------------------------------------------------------------------------------------------- its files


@pytest.fixture
def boards(tmp_path):
    for name, means in (("a", A), ("b", B), ("quickstart", C)):
        make(tmp_path, name, means)
    return tmp_path


def leaderboard(boards, *options):
    arguments = ["leaderboard", "--boards-dir", str(boards), *options]
    return CliRunner().invoke(cli, arguments, standalone_mode=False, catch_exceptions=False)


def test_all_boards_are_listed_but_those_of_runs_that_name_none(boards):
    leaderboard(boards)
    page = (boards / "README.md").read_text()
    setting = "`a`, teacher `demo-teacher`, student `tiny`; 30 examples, 3 seeds, 300 steps"
    assert f"| [`a`](a/README.md) | {setting} | m ↑ | `kd` | 3 |" in page
    assert "[`b`](b/README.md)" in page
    assert "quickstart" not in page
    assert "## Across tasks: teacher `demo-teacher`, student `tiny`, 3 seeds" in page
    assert "| `sft` | 3.0 | 3 | 3 | 1.0 | logits |" in page
    assert 'href="a/index.html"' in (boards / "index.html").read_text()


@pytest.mark.parametrize("trials", [0, 8])
def test_a_tuned_board_says_so(tmp_path, trials):
    protocol = {**PROTOCOL, **({"tune": trials} if trials else {})}
    for seed in range(3):
        columns = {"m": (np.array([1.0, 2.0, 3.0 + seed]), "higher", "")}
        put(tmp_path / "a", *record("kd", seed, columns=columns, protocol=protocol))
    page = render_index({"a": load(tmp_path / "a")}, tmp_path)[tmp_path / "README.md"].decode()
    assert (f", 300 steps, {trials} trials for each method |" if trials else ", 300 steps |") in page


def test_check_covers_the_index_once_it_is_there(boards):
    leaderboard(boards, "a", "b", "quickstart")
    assert not (boards / "README.md").exists()
    assert leaderboard(boards, "--check").return_value == 0
    leaderboard(boards)
    assert leaderboard(boards, "--check").return_value == 0
    make(boards, "c", C)
    leaderboard(boards, "c")
    result = leaderboard(boards, "--check")
    assert result.return_value == 1
    assert result.stdout.split() == [str(boards / "README.md"), str(boards / "index.html")]
    assert leaderboard(boards, "a", "--check").return_value == 0


def test_check_tells_a_page_of_html_that_does_not_match(boards):
    leaderboard(boards)
    page = boards / "b" / "index.html"
    page.write_text(page.read_text().replace("plad", "best", 1))
    result = leaderboard(boards, "--check", "--json")
    assert result.return_value == 1
    assert json.loads(result.stdout)["b"] == {"differs": [str(page)]}


def test_somebodys_own_page_is_left_alone(boards):
    (boards / "README.md").write_text("# Mine\n")
    (boards / "index.html").write_text("<h1>Mine</h1>")
    leaderboard(boards)
    assert (boards / "README.md").read_text() == "# Mine\n"
    assert (boards / "index.html").read_text() == "<h1>Mine</h1>"
    assert leaderboard(boards, "--check").return_value == 0


def test_names_of_boards_are_text_and_their_links_stay_below(tmp_path):
    name = '<img src=x> "on&[x](y)'
    make(tmp_path, name, A, task="t")
    leaderboard(tmp_path)
    page = (tmp_path / "index.html").read_text()
    assert "<img" not in page
    assert 'href="%3Cimg%20src%3Dx%3E%20%22on%26%5Bx%5D%28y%29/index.html"' in page
    assert "](%3Cimg%20src%3Dx%3E%20%22on%26%5Bx%5D%28y%29/README.md)" in (tmp_path / "README.md").read_text()


def test_a_board_without_a_complete_row_has_no_counts_of_nothing(tmp_path):
    columns = {"m": (np.array([1.0, 2.0]), "higher", "")}
    put(tmp_path / "b", *record("kd", 0, status="trial", columns=columns))
    (tmp_path / "b" / "board.toml").touch()
    board = load(tmp_path / "b")
    for page in (*render_index({"b": board}, tmp_path).values(), *render_board(board, tmp_path / "b", ()).values()):
        assert not re.search(rb"\b0 (examples|seeds)", page)
    assert b"; no complete method yet" in render_index({"b": board}, tmp_path)[tmp_path / "README.md"]
