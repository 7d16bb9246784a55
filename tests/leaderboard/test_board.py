"""A board is a function of its files: what counts, what ranks, what is left out, and how it reads."""

import json
import re
import shutil
import xml.etree.ElementTree as ET

import hostile
import numpy as np
import pytest
from synthetic import PROTOCOL, component, page, put, realistic, record

from plad_bench.contract.errors import UsageError
from plad_bench.leaderboard.loading import load
from plad_bench.plan import boardfile
from plad_bench.records import text
from plad_bench.render.write import render_board


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return realistic(tmp_path_factory.mktemp("boards") / "demo", examples=120)


@pytest.fixture
def board(made, tmp_path):
    return shutil.copytree(made, tmp_path / "demo")


def simple(directory, methods, seeds=3, examples=40, **settings):
    """A board of methods whose only metric is their given mean with a little noise."""
    rng = np.random.default_rng(3)
    for name, mean in methods.items():
        for seed in range(seeds):
            put(directory, *record(name, seed, columns={"m": (rng.normal(mean, 0.1, examples), "higher", "")}))
    lines = "".join(f"{key} = {json.dumps(value)}\n" for key, value in settings.items())
    directory.mkdir(exist_ok=True)
    (directory / "board.toml").write_text(lines, encoding="utf-8")
    return directory


def change(path, **values):
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}), encoding="utf-8")


def only(board):
    (group,) = board.groups
    return group


# ---------------------------------------------------------------------------------------------------- what it says


def test_rows_references_and_ranks(board):
    group = only(load(board))
    assert [row.label for row in group.baselines] == ["teacher", "student", "sft-init"]
    assert [len(row.seeds) for row in group.baselines] == [1, 1, 5]
    assert {row.label for row in group.rows} == {"plad", "plad[loss=margin]", "seqkd", "kd", "sft"}
    means = [row.estimates["missing-slots"].value for row in group.rows]
    assert means == sorted(means)
    for i, row in enumerate(group.rows):
        low, high = row.rank
        assert 1 <= low <= i + 1 <= high <= 5
        wins, _, losses = row.tally
        assert (low, high) == (1 + losses, 5 - wins)
    assert group.rows[0].best
    assert not group.rows[-1].best
    last = group.rows[-1]
    assert (last.label, last.tally[0]) == ("sft", 0)
    assert 0 < last.gap.low < last.gap.value < last.gap.high < group.rows[0].gap.value < 1


def test_values_are_the_means_of_the_records(board):
    group = only(load(board))
    for row in group.rows:
        records = [json.loads((board / "cells" / f"{cell}.json").read_text()) for cell in row.cells]
        for name, estimate in row.estimates.items():
            assert estimate.value == pytest.approx(np.mean([r["metrics"][name]["value"] for r in records]))
            assert estimate.low <= estimate.value <= estimate.high


def test_what_is_incomplete_is_listed_and_never_ranked(board):
    group = only(load(board))
    assert {(u.label, u.status, u.seeds) for u in group.unranked} == {
        ("gkd", "failed", (3,)),
        ("gkd", "incomplete", (0, 1, 2)),
        ("simpo", "trial", (0,)),
        ("uld", "skipped", (0, 1, 2, 3, 4)),
    }
    assert not {"gkd", "simpo", "uld"} & {row.label for row in group.rows}


def test_costs_are_means_and_the_teacher_is_shared(board):
    rows = {row.label: row.cost for row in only(load(board)).rows}
    assert rows["seqkd"].teacher_seconds == 212.5
    assert rows["seqkd"].teacher_share == pytest.approx(212.5 / 20)
    assert rows["seqkd"].total_seconds == pytest.approx(rows["seqkd"].train_seconds + 212.5 / 20)
    assert rows["sft"].teacher_seconds is None
    assert rows["sft"].total_seconds == rows["sft"].train_seconds


@pytest.mark.parametrize(
    ("prices", "cost", "money"),
    [
        ("device_hour = 3.6", {"train_device_seconds": 100.0, "sample_device_seconds": 50.0}, 0.15),
        ("device_hour = 3.6", {"train_device_seconds": 100.0, "teacher_device_seconds": 1000.0}, 1.1),
        (
            "device_hour = 3.6\nteacher_million_tokens = 10",
            {"train_device_seconds": 100.0, "teacher_device_seconds": 1000.0, "teacher_tokens": 2e5},
            2.1,
        ),
        (
            "device_hour = 3.6\nteacher_million_tokens = 10",
            {"train_device_seconds": 100.0, "teacher_tokens": 2e5, "teacher_money": 7.0},
            7.1,
        ),
        ("device_hour = 3.6", {"tokens_trained": 5.0}, None),
    ],
)
def test_costs_are_money_where_the_board_has_prices(tmp_path, prices, cost, money):
    put(tmp_path, *record("kd", 0, columns={"m": (np.arange(9.0), "higher", "")}, cost=cost))
    (tmp_path / "board.toml").write_text(f'[prices]\n{prices}\ncurrency = "EU|R"\n')
    (row,) = only(load(tmp_path)).rows
    assert row.cost.money == (pytest.approx(money) if money else None)
    assert "Money (EU&#124;R)" in page(tmp_path)
    assert f"| {text.money(money)} |" in page(tmp_path)
    boardfile.write(tmp_path / "board.toml", load(tmp_path).settings)
    assert only(load(tmp_path)).rows[0].cost.money == row.cost.money


def test_a_board_without_prices_shows_no_money_and_a_wrong_price_is_named(tmp_path):
    simple(tmp_path / "b", {"kd": 1.0})
    assert "Money" not in page(tmp_path / "b")
    for wrong in ("device_hour = -1", "device_hours = 1", "teacher_million_tokens = 1"):
        (tmp_path / "b" / "board.toml").write_text(f"[prices]\n{wrong}\n")
        with pytest.raises(UsageError, match=r"prices\.device_hour"):
            load(tmp_path / "b")


def test_direction_decides_the_order_and_none_is_never_ranked(tmp_path):
    rng = np.random.default_rng(0)
    for name, mean in (("low", 1.0), ("high", 2.0)):
        for seed in range(3):
            x = rng.normal(mean, 0.1, 30)
            put(
                tmp_path,
                *record(name, seed, columns={"up": (x, "higher", ""), "down": (x, "lower", ""), "flat": (x, None, "")}),
            )
    for primary, first in (("up", "high"), ("down", "low")):
        (tmp_path / "board.toml").write_text(f'primary = "{primary}"')
        best = only(load(tmp_path)).rows[0]
        assert (best.label, best.rank, best.best) == (first, (1, 1), True)
    (tmp_path / "board.toml").write_text('primary = "flat"')
    group = only(load(tmp_path))
    assert group.pairs is None
    assert {row.rank for row in group.rows} == {None}
    assert "not ranked" in page(tmp_path)


def test_the_same_method_typed_differently_is_one_row_and_other_parameters_are_another(tmp_path):
    x = {"m": (np.arange(9.0), "higher", "")}
    put(tmp_path, *record("kd", 0, columns=x, params={"t": 1}))
    put(tmp_path, *record("kd", 1, selector="kd[t=1]", columns=x, params={"t": 1}))
    for seed in (0, 1):
        put(tmp_path, *record("kd", seed, selector="kd[t=2]", columns=x, params={"t": 2}))
    assert [(row.label, row.seeds) for row in only(load(tmp_path)).rows] == [("kd", (0, 1)), ("kd[t=2]", (0, 1))]


def test_namesakes_are_told_apart_by_what_differs(tmp_path):
    x = {"m": (np.arange(9.0), "higher", "")}
    for folder, pairs in (("a", "one"), ("b", "two")):
        data, scores = record("plad", 0, columns=x, folder=folder, pairs=component(pairs))
        put(tmp_path, data, scores)
    assert {row.label for row in only(load(tmp_path)).rows} == {"plad (pairs=one)", "plad (pairs=two)"}


def test_seeds_asked_by_the_board_leave_methods_incomplete_and_extra_seeds_out(tmp_path):
    directory = simple(tmp_path / "b", {"kd": 1.0}, seeds=2, seeds_asked=3)
    put(directory, *record("plad", 7, columns={"m": (np.ones(40), "higher", "")}))
    group = only(load(directory))
    assert group.rows == ()
    assert {(u.label, u.status) for u in group.unranked} == {("kd", "incomplete"), ("plad", "extra")}


def test_a_metric_that_one_method_lacks_is_a_dash_and_a_missing_primary_is_incomplete(tmp_path):
    x = (np.arange(9.0), "higher", "")
    put(tmp_path, *record("a", 0, columns={"m": x, "other": x}))
    put(tmp_path, *record("b", 0, columns={"m": x}))
    put(tmp_path, *record("c", 0, columns={"other": x}))
    (tmp_path / "board.toml").write_text('metrics = ["m", "other"]')
    group = only(load(tmp_path))
    assert [row.label for row in group.rows] == ["a", "b"]
    assert [(u.label, u.reason) for u in group.unranked] == [("c", "has no value of the primary metric")]
    assert re.search(r"\| \[`b`\]\(\S+\) \| 4\.0 ± \S+ † \| — \|", page(tmp_path))


def test_tasks_have_groups_and_protocols_of_their_own(tmp_path):
    x = {"m": (np.arange(9.0), "higher", "")}
    for name, steps in (("demo", 300), ("e2e", 500)):
        task = {**component(name), "licence": "x", "redistributable": False}
        put(tmp_path, *record("kd", 0, columns=x, folder=name, task=task, protocol={**PROTOCOL, "steps": steps}))
    (tmp_path / "board.toml").write_text("[protocol]\nsteps = 300\n[tasks.e2e]\nsteps = 500\n")
    board = load(tmp_path)
    assert not board.problems
    assert [group.task for group in board.groups] == ["demo", "e2e"]
    assert "## `e2e`, teacher `demo-teacher`, student `tiny`" in page(tmp_path)


def test_an_empty_board_has_a_page(tmp_path):
    assert "No records yet" in page(tmp_path)


def test_a_malformed_board_file_is_a_usage_error(tmp_path):
    (tmp_path / "board.toml").write_text("seeds_asked = -3")
    with pytest.raises(UsageError, match="seeds_asked"):
        load(tmp_path)
    (tmp_path / "board.toml").write_text("= x")
    with pytest.raises(UsageError, match="Invalid"):
        load(tmp_path)


# ------------------------------------------------------------------------------------------------- what is left out


def problems(directory):
    return {problem.file: problem.reason for problem in load(directory).problems}


def test_corrupt_foreign_and_edited_records_are_named_and_left_out(board):
    cells = board / "cells" / "demo.tiny"
    before = {row.label for row in only(load(board)).rows}
    (cells / "kd.s0.json").write_text("{")
    change(cells / "plad.s1.json", protocol={**PROTOCOL, "steps": 999})
    edited = json.loads((cells / "seqkd.s2.json").read_text())
    edited["metrics"]["missing-slots"]["value"] = 0.0
    change(cells / "seqkd.s2.json", metrics=edited["metrics"])
    shutil.copy(cells / "sft.s0.json", cells / "copied.json")
    (cells / "sft.s3.scores.parquet").unlink()
    found = problems(board)
    assert set(found) == {f"demo.tiny/{n}.json" for n in ("kd.s0", "plad.s1", "seqkd.s2", "copied", "sft.s3")}
    assert "not a record" in found["demo.tiny/kd.s0.json"]
    assert "steps is 999, not 300" in found["demo.tiny/plad.s1.json"]
    assert "was edited" in found["demo.tiny/seqkd.s2.json"]
    assert "belongs to cell demo.tiny/sft.s0" in found["demo.tiny/copied.json"]
    assert "missing" in found["demo.tiny/sft.s3.json"]
    assert before - {row.label for row in only(load(board)).rows} == {"kd", "plad", "seqkd", "sft"}
    assert "Files left out (5)" in page(board)


def test_two_records_of_one_method_and_seed_conflict(tmp_path):
    x = {"m": (np.arange(9.0), "higher", "")}
    for folder in ("a", "b"):
        put(tmp_path, *record("kd", 0, columns=x, folder=folder))
    assert all("conflicts with" in reason for reason in problems(tmp_path).values())
    assert len(problems(tmp_path)) == 2


def test_scores_on_other_examples_are_foreign_and_another_order_is_not(tmp_path):
    directory = simple(tmp_path / "b", {"kd": 1.0, "plad": 2.0})
    before = only(load(directory)).rows
    from plad_bench.records import storage

    path = directory / "cells" / "demo.tiny" / "kd.s0.scores.parquet"
    record_path = path.with_name("kd.s0.json")
    data = json.loads(record_path.read_text())
    ids, scores = storage.read_scores(path, data["scores"]["sha256"])

    def rewrite(new_ids, values):
        import hashlib

        content = storage.scores_bytes(new_ids, {"m": values})
        path.write_bytes(content)
        change(record_path, scores={**data["scores"], "sha256": hashlib.sha256(content).hexdigest()})

    rewrite(ids[::-1], scores["m"][::-1])
    after = only(load(directory)).rows
    assert not problems(directory)
    assert [row.estimates["m"].half_width for row in after] == pytest.approx(
        [row.estimates["m"].half_width for row in before]
    )
    rewrite([f"other{i}" for i in ids], scores["m"])
    assert "other examples: it shares 0 of the 40" in problems(directory)["demo.tiny/kd.s0.json"]


def test_a_record_that_declares_another_direction_is_left_out(tmp_path):
    directory = simple(tmp_path / "b", {"kd": 1.0})
    put(directory, *record("odd", 0, columns={"m": (np.ones(40), "lower", "")}))
    assert "another direction" in problems(directory)["demo.tiny/odd.s0.json"]


# --------------------------------------------------------------------------------------------------- how it reads


def test_the_page_is_a_pure_function_of_the_files(board):
    first, second = render_board(board), render_board(board)
    assert first == second
    assert [path.relative_to(board).as_posix() for path in first] == [
        "README.md",
        "index.html",
        "plots/quality.svg",
        "plots/cost.svg",
    ]
    assert not (board / "README.md").exists()


def test_the_page_reads_in_order(board):
    text_ = page(board, ["## A section of a plugin"])
    order = ["# Demo", "Task `demo`", "Ranking by `missing-slots` (%) ↓", "## Plots", "## All metrics", "## Cost",
             "Pairwise", "Incomplete", "## Samples", "A section of a plugin", "How to reproduce"]  # fmt: skip
    places = [text_.index(part) for part in order]
    assert places == sorted(places)
    assert ", one learning rate for all methods (0.001)." in text_
    assert "    plad-bench run --methods kd --seeds 5 --board mine" in text_
    assert re.search(r"\| 1-[23] ★ \| \[`(seqkd|plad|plad\[loss=margin\])`\]\(\S+\) \| \d\.\d ± \d\.\d \|", text_)
    assert re.search(r"\d+ % \(\d+ to \d+\)", text_)
    for table in re.findall(r"(?:^\|.*\n)+", text_, re.MULTILINE):
        assert len({line.count("|") for line in table.splitlines()}) == 1


def test_different_code_versions_are_said(board):
    change(board / "cells" / "demo.tiny" / "kd.s0.json", provenance={"code": "fffffff"})
    assert "different versions of the code:** `1a2b3c4` (41 records), `fffffff` (1 records)" in page(board)


@pytest.mark.parametrize("text", hostile.TEXTS)
def test_text_of_records_never_becomes_markup(tmp_path, text):
    directory = hostile.board(tmp_path / "b", text)
    files = render_board(directory)
    page_ = files[directory / "README.md"].decode()
    if "\ud800" in text:  # no valid text: such records are refused, and the page says so
        assert "Files left out" in page_
        return
    assert len(files) == 4
    hostile.assert_no_markup(page_)
    for path, data in files.items():
        if path.suffix == ".svg":
            tags = {element.tag.rpartition("}")[2] for element in ET.fromstring(data).iter()}
            assert tags <= {"svg", "style", "title", "text", "line", "circle", "g", "polyline"}


def test_huge_scores_neither_warn_nor_break_a_page(tmp_path):
    for name, value in (("kd", 1e99), ("plad", 1.0)):
        put(
            tmp_path,
            *record(name, 0, columns={"m": (np.full(9, value), "higher", "")}, cost={"train_device_seconds": 1e300}),
        )
    assert render_board(tmp_path)


def boxes(svg):
    """(left, right, baseline) of the labels of the methods in a plot, at the widths of a common font."""
    for element in ET.fromstring(svg).iter("{http://www.w3.org/2000/svg}text"):
        if element.get("class") not in {None, "label"}:
            continue
        width = 6.6 * len(element.text)
        x, y = float(element.get("x")), float(element.get("y"))
        start = {"start": x, "middle": x - width / 2, "end": x - width}[element.get("text-anchor")]
        yield start, start + width, y


def test_labels_of_plots_do_not_collide_nor_leave_the_picture(tmp_path):
    names = {
        f"a-method-with-a-very-long-name[temperature={i},ce_weight=0.5]": (0.1 + i / 100, 0.5, 30.0 + i % 3, "text")
        for i in range(9)
    }
    board = realistic(tmp_path / "b", methods=names, seeds=3, examples=60)
    for path, data in render_board(board).items():
        if path.suffix == ".svg":
            found = list(boxes(data))
            assert len(found) >= 5
            for k, (left, right, y) in enumerate(found):
                assert left >= 0
                assert right <= 760
                assert not any(a < right and b > left and abs(y - z) < 11 for a, b, z in found[:k])
            assert b"prefers-color-scheme: dark" in data


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (text.seconds(38.2), "38.2 s"),
        (text.seconds(252.0), "4.2 min"),
        (text.seconds(3 * 3600.0), "3 h"),
        (text.seconds(None), "—"),
        (text.amount(310_000.0), "310 k"),
        (text.size(3 * 2.0**30), "3 GiB"),
        (text.number(-0.04, 1), "0.0"),
        (text.number(-1.25, 1), "\N{MINUS SIGN}1.2"),
        (text.number(float("nan"), 1), "—"),
        (text.money(0.0123), "0.012"),
        (text.money(12.3), "12.30"),
        (text.p(0.0001), "<0.001"),
        (text.p(0.5), "0.50"),
        (text.decimals_for([0.04, 0.03, 0.05]), 2),
        (text.code("kd[temperature=2]"), "`kd[temperature=2]`"),
        (text.code("a|b"), "a&#124;b"),
    ],
)
def test_how_numbers_and_names_read(shown, expected):
    assert shown == expected


def test_the_last_bit_of_a_number_never_shows():
    assert text.number(np.nextafter(54.25, 0), 1) == text.number(54.25, 1) == text.number(np.nextafter(54.25, 99), 1)


# ------------------------------------------------------------------------------------------------------ the controls


def controlled(directory, means, seeds=5):
    """A board whose methods named `placebo` and `self-sft` are controls."""
    rng = np.random.default_rng(5)
    hard = rng.normal(0, 1, 60)
    for name, mean in means.items():
        for seed in range(seeds):
            values = mean + hard + rng.normal(0, 0.1) + rng.normal(0, 0.1, 60)
            data, scores = record(name, seed, columns={"m": (values, "higher", "")})
            data["method"]["control"] = name in {"placebo", "self-sft"}
            put(directory, data, scores)
    (directory / "board.toml").write_text("seeds_asked = 5\n")
    return directory


def test_a_control_is_a_baseline_and_each_method_says_whether_it_beats_it(tmp_path):
    means = {"kd": 3.0, "plad": 2.0, "sft": 1.0, "placebo": 0.0, "self-sft": 2.0}
    group = only(load(controlled(tmp_path, means)))
    assert [row.label for row in group.rows] == ["kd", "plad", "sft"]
    assert [(row.label, row.rank) for row in group.baselines] == [("placebo", None), ("self-sft", None)]
    assert [row.beats for row in group.rows] == [
        {"placebo": True, "self-sft": True},
        {"placebo": True, "self-sft": False},
        {"placebo": True, "self-sft": False},
    ]
    assert len(group.pairs.difference) == 3
    text = page(tmp_path)
    assert text.index("Ranking by `m`") < text.index("## All metrics") < text.index("[`placebo`]")
    assert "| all |" in text
    assert "| 1 of 2, not `self-sft` |" in text
    assert "`plad` and `sft` do not beat every control (`placebo`, `self-sft`), so this board does" in text


def test_ranks_are_the_same_with_controls_and_without(tmp_path):
    with_, without = tmp_path / "with", tmp_path / "without"
    means = {"kd": 3.0, "plad": 2.9, "placebo": 3.5}
    ranked = [only(load(controlled(with_, means))), only(load(controlled(without, {"kd": 3.0, "plad": 2.9})))]
    one, other = [[(row.label, row.rank, row.best, row.tally) for row in group.rows] for group in ranked]
    assert one == other
    assert "does not beat" not in page(without)
    assert "`kd` and `plad` do not beat the control (`placebo`)" in page(with_)


def test_a_control_that_lacks_a_seed_is_incomplete(tmp_path):
    controlled(tmp_path, {"kd": 3.0, "placebo": 0.0})
    (tmp_path / "cells" / "demo.tiny" / "placebo.s4.json").unlink()
    group = only(load(tmp_path))
    assert group.baselines == ()
    assert [(u.label, u.status) for u in group.unranked] == [("placebo", "incomplete")]
    assert group.rows[0].beats == {}
