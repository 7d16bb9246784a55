"""compare: the board's own statistics for two methods, refused where scores are not of the same examples."""

import json

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import digest, put, realistic, record

from plad_bench.cli.main import cli
from plad_bench.leaderboard.loading import load
from plad_bench.records import storage


@pytest.fixture(scope="module")
def boards(tmp_path_factory):
    root = tmp_path_factory.mktemp("boards")
    realistic(root / "one", seeds=4, examples=60)
    realistic(root / "two", seeds=3, examples=60, random=8)
    return root


def run(root, *arguments):
    return CliRunner().invoke(cli, ["compare", "--boards-dir", str(root), *arguments], standalone_mode=False)


def compared(root, *arguments):
    result = run(root, *arguments, "--json")
    assert result.exception is None, result.exception
    return json.loads(result.stdout)


def message(root, *arguments):
    return str(run(root, *arguments).exception)


def small(root, scores, metric="m", better="higher"):
    """A board `b` of methods with given scores [S, E]."""
    for method, rows in scores.items():
        for seed, values in enumerate(rows):
            put(root / "b", *record(method, seed, columns={metric: (np.asarray(values, float), better, "")}))
    (root / "b").mkdir(exist_ok=True)
    (root / "b" / "board.toml").touch()
    return root


def rescored(root, method, seed, ids, values):
    """Give a cell other examples, hash and summary included."""
    path = root / "b" / "cells" / "demo.tiny" / f"{method}.s{seed}.json"
    data = json.loads(path.read_text())
    scores = storage.scores_bytes(ids, {"m": values})
    path.with_name(data["scores"]["file"]).write_bytes(scores)
    value, n, stderr = storage.summarise(values)
    data["scores"] |= {"sha256": digest(scores), "examples": len(ids)}
    data["metrics"]["m"] |= {"value": value, "n": n, "stderr": stderr}
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(("a", "b"), [("plad", "sft"), ("seqkd", "plad[loss=margin]"), ("kd", "plad")])
def test_a_comparison_says_what_the_board_says_of_the_pair(boards, a, b):
    (group,) = load(boards / "one").groups
    i, k = ([row.label for row in group.rows].index(name) for name in (a, b))
    (one,) = compared(boards, a, b, "--board", "one")["comparisons"]
    assert one["metric"] == group.primary.name
    assert (one["seeds"], one["examples"]) == (4, 60)
    sign = -1.0  # the metric is better when lower
    assert one["difference"] == pytest.approx(sign * group.pairs.difference[i, k], rel=1e-12)
    assert one["high"] - one["difference"] == pytest.approx(group.pairs.half_width(i, k, 0.95))
    assert one["p"] == pytest.approx(group.pairs.p(i, k))
    assert one["minimum"] == pytest.approx(group.pairs.minimum(i, k, tests=1))
    assert one["minimum"] < group.pairs.minimum(i, k)  # which is of a test among all pairs of the board
    assert one["a"] == pytest.approx(group.rows[i].estimates[group.primary.name].value)


def test_several_metrics_are_adjusted_together_and_direction_decides_the_verdict(boards):
    metrics = [word for name in ("missing-slots", "rouge-l", "length") for word in ("--metric", name)]
    found = {one["metric"]: one for one in compared(boards, "sft", "plad", "--board", "one", *metrics)["comparisons"]}
    assert list(found) == ["missing-slots", "rouge-l", "length"]
    assert found["missing-slots"]["verdict"] == "worse"
    assert found["length"]["better"] is None
    raw = sorted(one["p"] for one in found.values())
    assert sorted(one["p_holm"] for one in found.values())[0] == pytest.approx(min(3 * raw[0], 1))
    (alone,) = compared(boards, "sft", "plad", "--board", "one", "--metric", "rouge-l")["comparisons"]
    assert found["rouge-l"]["minimum"] > alone["minimum"]  # one of three tests finds less than a test alone
    swapped = compared(boards, "plad", "sft", "--board", "one")["comparisons"][0]
    assert (swapped["verdict"], swapped["difference"]) == ("better", -found["missing-slots"]["difference"])


def test_a_significantly_worse_method_fails_only_where_asked(boards):
    assert run(boards, "sft", "plad", "--board", "one").return_value == 0
    assert run(boards, "sft", "plad", "--board", "one", "--fail-if-worse").return_value == 1
    assert run(boards, "plad", "sft", "--board", "one", "--fail-if-worse").return_value == 0
    assert run(boards, "seqkd", "plad", "--board", "one", "--fail-if-worse").return_value == 0
    said = message(boards, "sft", "plad", "--board", "one", "--metric", "length", "--fail-if-worse")
    assert "length has no better direction" in said


def test_two_boards_are_compared_on_shared_seeds_and_say_whose_is_whose(boards):
    result = run(boards, "one:plad", "two:plad")
    assert "3 seeds, 60 examples" in result.stdout
    assert "one:plad" in result.stdout
    assert "two:plad" in result.stdout


def test_a_fixed_reference_counts_for_every_seed(boards):
    (one,) = compared(boards, "plad", "teacher", "--board", "one")["comparisons"]
    assert (one["seeds"], one["verdict"]) == (4, "worse")


def test_a_reader_sees_a_plain_table(boards):
    out = run(boards, "plad", "sft", "--board", "one").stdout
    title, head, row = out.splitlines()
    assert title == "demo: tiny taught by demo-teacher; 4 seeds, 60 examples, paired by seed and example"
    assert head.split("  ")[-1].strip() == "plad is"
    assert row.startswith("missing-slots (%) ↓")
    assert row.endswith("better")
    assert not set(out) & set("│┃━\x1b")


def test_one_seed_says_that_it_is_one(tmp_path):
    root = small(tmp_path, {"kd": [[1, 2, 3, 4]], "plad": [[2, 3, 4, 6]]})
    assert "; one seed, 4 examples, paired by example alone" in run(root, "kd", "plad").stdout


def test_different_examples_are_refused_and_counted(tmp_path):
    root = small(tmp_path, {"kd": [[1, 2, 3], [1, 2, 4]], "plad": [[2, 3, 4], [2, 3, 5]]})
    data = json.loads((root / "b" / "cells" / "demo.tiny" / "kd.s0.json").read_text())
    ids, _ = storage.read_scores(root / "b" / "cells" / "demo.tiny" / "kd.s0.scores.parquet", data["scores"]["sha256"])
    rescored(root, "plad", 1, ids[::-1], np.array([5.0, 3.0, 2.0]))
    assert compared(root, "kd", "plad")["comparisons"][0]["difference"] == pytest.approx(-1.0)
    rescored(root, "plad", 1, [*ids[:2], "another"], np.array([2.0, 3.0, 5.0]))
    result = run(root, "kd", "plad")
    assert "different examples: 2 examples belong to only one of them" in str(result.exception)
    assert result.exception.exit_code == 2


def test_records_that_cannot_be_used_are_named_and_their_seed_left_out(tmp_path):
    root = small(tmp_path, {"kd": [[1, 2, 3], [1, 2, 4]], "plad": [[2, 3, 4], [2, 3, 5]]})
    cells = root / "b" / "cells" / "demo.tiny"
    (cells / "kd.s1.scores.parquet").write_bytes(b"x")
    (cells / "plad.s0.json").write_text("{")
    assert "share no seed" in message(root, "kd", "plad")
    (cells / "kd.s0.scores.parquet").unlink()
    result = run(root, "kd", "plad")
    assert "no record of kd can be used" in str(result.exception)
    assert "left out: demo.tiny/kd.s1.json: " in result.stderr
    assert "left out: b/cells/demo.tiny/plad.s0.json: not a record" in result.stderr


def test_another_protocol_is_said(tmp_path):
    root = small(tmp_path, {"kd": [[1, 2, 3]]})
    data, scores = record("kd", 0, columns={"m": (np.array([1.0, 2, 4]), "higher", "")})
    data["protocol"]["steps"] = 900
    put(root / "c", data, scores)
    (root / "c" / "board.toml").touch()
    result = run(root, "b:kd", "c:kd")
    assert "the protocols differ: steps is 300 and 900" in result.stderr
    assert compared(root, "b:kd", "c:kd")["protocol"] == {"steps": {"a": 300, "b": 900}}


def test_a_board_of_trials_says_why_nothing_is_compared(tmp_path):
    put(tmp_path / "b", *record("kd", 0, status="trial", columns={"m": (np.array([1.0, 2]), "higher", "")}))
    (tmp_path / "b" / "board.toml").touch()
    assert "trials, from runs with --limit" in str(run(tmp_path, "kd", "plad", "--board", "b").exception)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["plda", "kd", "--board", "one"], "Did you mean plad"),
        (["plad", "kd"], "2 boards"),
        (["plad", "kd", "--board", "three"], "no board 'three'"),
        (["plad", "kd", "--board", "one", "--metric", "rouge"], "Did you mean rouge-l"),
        (["plad", "kd", "--board", "one", "--task", "e2e"], "have no teacher and student"),
        (["uld", "kd", "--board", "one"], "no finished method 'uld'"),
    ],
)
def test_bad_input_is_named_with_a_remedy(boards, arguments, words):
    result = run(boards, *arguments)
    assert words in str(result.exception)
    assert result.exception.exit_code == 2
