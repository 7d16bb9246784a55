"""A board shows the newest version of its data, lists older ones in one line, and loses what it is asked to lose."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
import tiny
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import UsageError
from plad_bench.contract.names import unversioned
from plad_bench.leaderboard import compare
from plad_bench.leaderboard.loading import load
from plad_bench.plan import boardfile, matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench.render import html, markdown, origin

SCORES = {"rouge-l": (np.linspace(0, 1, 20), "higher", "%")}
FIRST, SECOND = "sha256:" + "1a" * 32, "sha256:" + "2b" * 32


def put(root, digest, *, seed=0, method="kd", name="mine.jsonl", status="done", versions=(1, 1), teacher=None):
    """A record on a task that reads a file; its cell is named as a run names it."""
    selector = f"jsonl[path={name}-{digest[7:15]}]"
    columns = SCORES if status == "done" else None
    data, scores = synthetic.record(
        method, seed, columns=columns, status=status, folder=f"jsonl-path={name}-{digest[7:15]}/tiny+small"
    )
    data["task"] |= {"name": "jsonl", "selector": selector, "params": {"path": digest, "prompt": "prompt"}}
    data["task"] |= {"version": versions[0], "data_version": versions[1]}
    if status == "failed":
        data["reason"] = "data: 300 rows cannot be used"
    if teacher:
        data["teacher"] = synthetic.component("recorded", f"recorded[path=said-{teacher[7:15]}]", path=teacher)
        data["cell"] = data["cell"].replace("+small", f"+said-{teacher[7:15]}")
        if scores:
            data["scores"]["file"] = data["cell"].rpartition("/")[2] + ".scores.parquet"
    synthetic.put(root, data, scores)
    return data["cell"]


def latest(root, **read):
    """What the latest run wrote into board.toml."""
    versions = {f"{kind}[path={name}]": tuple(f"{kind}[path={name}-{d[7:15]}]" for d in digests)
                for kind, (name, digests) in read.items()}  # fmt: skip
    file = root / "board.toml"
    protocol = boardfile.read(file)
    boardfile.write(file, protocol.model_copy(update={"versions": versions}))


@pytest.fixture
def root(tmp_path):
    """A board whose file had two versions; a run on the older one failed for one method."""
    root = tmp_path / "house"
    for seed in range(2):
        put(root, FIRST, seed=seed)
        put(root, SECOND, seed=seed)
        put(root, SECOND, seed=seed, method="sft")
    put(root, FIRST, method="plad", status="failed")
    latest(root, jsonl=("mine.jsonl", [SECOND]))
    return root


def test_a_selector_without_the_versions_of_files(tmp_path):
    file = tmp_path / "mine.jsonl"
    names = []
    for text in ("one", "two"):
        file.write_text(text)
        (task,) = choose(tiny.registry(), "task", f"jsonl[path={file},response=answer]")
        names.append((task.label, unversioned(task.label, task.params.public())))
    assert names[0][0] != names[1][0]
    assert names[0][1] == names[1][1] == "jsonl[response=answer,path=mine.jsonl]"
    (demo,) = choose(tiny.registry(), "task", "demo")
    assert unversioned(demo.label, demo.params.public()) == "demo"


def test_the_board_shows_the_newest_version_and_names_the_older_one_in_a_line(root):
    shown = load(root)
    assert [(g.task, len(g.rows), g.unranked) for g in shown.groups] == [("jsonl[path=mine.jsonl-2b2b2b2b]", 2, ())]
    assert shown.older == {"jsonl[path=mine.jsonl-1a1a1a1a]": 3}
    assert len(shown.used) == 4
    for page in (markdown.render(shown), html.render(shown)):
        assert page.count("1a1a1a1a") == 1
        assert "Records of older versions of the data are not shown: " in page
        assert "plad-bench leaderboard house --drop older" in page
        assert "300 rows cannot be used" not in page


def test_an_older_version_is_not_compared(root):
    side = compare.side(root, "kd")
    assert len(side.groups) == 1
    with pytest.raises(UsageError, match="no finished method 'plad'"):
        compare.side(root, "plad")


def test_a_failed_section_goes_once_the_file_is_mended(tmp_path):
    put(tmp_path, FIRST, status="failed")
    latest(tmp_path, jsonl=("mine.jsonl", [FIRST]))
    assert [len(group.unranked) for group in load(tmp_path).groups] == [1]
    put(tmp_path, SECOND)
    latest(tmp_path, jsonl=("mine.jsonl", [SECOND]))
    assert [len(group.unranked) for group in load(tmp_path).groups] == [0]


def test_a_recorded_teachers_file_has_versions_too(tmp_path):
    for digest in (FIRST, SECOND):
        put(tmp_path, FIRST, teacher=digest)
    latest(tmp_path, jsonl=("mine.jsonl", [FIRST]), recorded=("said", [SECOND]))
    shown = load(tmp_path)
    assert [group.teacher for group in shown.groups] == ["recorded[path=said-2b2b2b2b]"]
    assert shown.older == {"recorded[path=said-1a1a1a1a]": 1}


def test_a_higher_version_of_the_data_stage_or_the_task_is_newer(tmp_path):
    put(tmp_path, FIRST, method="sft", versions=(1, 1))
    put(tmp_path, FIRST, method="kd", versions=(1, 2))
    shown = load(tmp_path)
    assert [row.method for group in shown.groups for row in group.rows] == ["kd"]
    assert shown.older == {"jsonl[path=mine.jsonl-1a1a1a1a], data version 1": 1}
    put(tmp_path, FIRST, method="plad", versions=(2, 2))
    assert [row.method for group in load(tmp_path).groups for row in group.rows] == ["plad"]


def test_two_files_of_one_run_are_both_shown(tmp_path):
    put(tmp_path, FIRST, name="a.jsonl")
    put(tmp_path, SECOND, name="b.jsonl")
    latest(tmp_path, jsonl=("a.jsonl", [FIRST]))
    assert len(load(tmp_path).groups) == 2
    other = tmp_path / "of-one-name"
    put(other, FIRST)
    put(other, SECOND)
    latest(other, jsonl=("mine.jsonl", [FIRST, SECOND]))
    assert len(load(other).groups) == 2


def test_a_board_that_says_nothing_of_versions_shows_all(tmp_path):
    put(tmp_path, FIRST)
    put(tmp_path, SECOND)
    shown = load(tmp_path)
    assert len(shown.groups) == 2
    assert origin.older_data(shown) == ()


def test_a_run_writes_which_version_it_read(tmp_path, monkeypatch):
    from plad_bench.running import setup

    monkeypatch.chdir(tmp_path)
    file = tmp_path / "house" / "board.toml"
    for text in ("one", "two"):
        (tmp_path / "mine.jsonl").write_text(json.dumps({"prompt": text, "response": text}))
        asked = spec.build(tiny.registry(), task="jsonl[path=mine.jsonl],demo", methods="none", student="tiny")
        versions = setup._versions(matrix.cells(asked, tiny.registry()))
        boardfile.extend(file, boardfile.Contribution("house", asked_protocols(asked), (), 1, versions=versions))
        label = next(task.label for task in asked.tasks if task.component.name == "jsonl")
        assert boardfile.read(file).versions == {"jsonl[path=mine.jsonl]": (label,)}


def asked_protocols(run):
    return {task.component.name: run.protocols[task.label] for task in run.tasks}


# ---------------------------------------------------------------------------------------------------------------- drop


def leaderboard(root, *arguments):
    given = ["leaderboard", "--boards-dir", str(root.parent), *arguments]
    return CliRunner().invoke(cli, given, standalone_mode=False)


def records(root):
    return {path.relative_to(root / "cells").with_suffix("").as_posix() for path in root.glob("cells/**/*.json")}


def test_drop_removes_older_versions_and_nothing_else(root):
    before = records(root)
    result = leaderboard(root, "house", "--drop", "older")
    assert result.exit_code == 0, result.output
    gone = before - records(root)
    assert len(gone) == 3
    assert all("1a1a1a1a" in cell for cell in gone)
    assert not list(root.glob("cells/*1a1a1a1a*")), "no file and no directory of theirs stays"
    assert "Older versions" not in (root / "README.md").read_text()
    assert load(root).problems == ()
    left = records(root)
    assert leaderboard(root, "house", "--drop", "older").exit_code == 0
    assert records(root) == left


@pytest.mark.parametrize(
    ("what", "gone"),
    [
        (["failed"], {"jsonl-path=mine.jsonl-1a1a1a1a/tiny+small/plad.s0"}),
        (
            ["jsonl-path=mine.jsonl-2b2b2b2b/tiny+small/sft.s1", "house/jsonl-path=mine.jsonl-1a1a1a1a"],
            {
                "jsonl-path=mine.jsonl-2b2b2b2b/tiny+small/sft.s1",
                "jsonl-path=mine.jsonl-1a1a1a1a/tiny+small/kd.s0",
                "jsonl-path=mine.jsonl-1a1a1a1a/tiny+small/kd.s1",
                "jsonl-path=mine.jsonl-1a1a1a1a/tiny+small/plad.s0",
            },
        ),
    ],
)
def test_drop_removes_what_is_asked(root, what, gone):
    before = records(root)
    result = leaderboard(root, "house", "--json", *(part for one in what for part in ("--drop", one)))
    assert result.exit_code == 0, result.output
    assert before - records(root) == gone
    assert len(json.loads(result.stdout)["house"]["dropped"]) == len(gone)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["house", "--drop", "jsonl-path=mine"], "no record 'jsonl-path=mine'"),
        (["house", "--drop", "failed", "--drop", "../house"], "no record '../house'"),
        (["house", "--drop", "/"], "no record '/'"),
        (["--drop", "failed"], "--drop needs the names of boards"),
        (["house", "--drop", "failed", "--check"], "--check and --drop cannot be combined"),
    ],
)
def test_drop_removes_nothing_where_part_of_it_is_wrong(root, arguments, message):
    before = records(root)
    result = leaderboard(root, *arguments)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert records(root) == before
