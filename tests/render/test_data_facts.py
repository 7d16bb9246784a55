"""What was merged, left out or looks alike in a task's data: told by `plan`, at the end of a run and on the page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
import tiny
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.components import Task
from plad_bench.contract.registry import Registry
from plad_bench.leaderboard.loading import load
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench.records import validation
from plad_bench.render import html, markdown
from plad_bench.render.data_facts import facts

OPERATORS = [
    {"prompt": f"Compute {a} {sign} {b} =", "response": f"It is {value}."}
    for a in range(2, 22)
    for b in range(30, 36)
    for sign, value in (("+", a + b), ("-", a - b), ("*", a * b))
]
LONG = "the old bridge over the blue river was built by a great tower walker who finds the garden near a house"


@pytest.fixture
def task(tmp_path, monkeypatch):
    """Selector of a file with 360 questions in groups of three, one row twice, and near-duplicates."""
    monkeypatch.chdir(tmp_path)
    near = [{"prompt": f"{LONG} {word}", "response": word} for word in ("red", "green", "blue", "white", "black")]
    rows = [*OPERATORS, {**OPERATORS[0], "prompt": f" {OPERATORS[0]['prompt']}\n"}, *near]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return "jsonl[path=mine.jsonl]"


def plan(task, *more):
    arguments = ["plan", "--task", task, "--student", "scratch[layers=1,width=16,heads=2]", "--teacher", "small"]
    given = [*arguments, "--methods", "none", "--store", "store", "--board", "b", *more]
    return CliRunner().invoke(cli, given, standalone_mode=False)


def test_plan_says_what_becomes_of_the_rows(task):
    result = plan(task)
    assert result.exit_code == 0, result.output
    said = [line.strip() for line in result.output.splitlines()]
    assert "1 row has the same prompt as another row, and its references are added to that one" in said
    assert "1 reference is the same as another one of its prompt, and is left out" in said
    together = "360 prompts have the same words as another prompt: they share its split and keep their own references"
    assert together in said
    assert any(line.endswith("in a later split and are kept (near_duplicates=drop leaves them out)") for line in said)
    counts = json.loads(plan(task, "--json").stdout)["data"]
    (sizes,) = [sum(of[f"{split}_prompts"] for split in ("train", "validation", "test")) for of in counts.values()]
    assert sizes == 365


def test_near_duplicates_are_left_out_of_any_task_on_request(task):
    kept, dropped = (
        next(iter(json.loads(plan(of, "--json").stdout)["data"].values()))
        for of in (task, task.replace("]", ",near_duplicates=drop]"))
    )
    assert kept["near_duplicates"] == dropped["near_duplicates_dropped"] > 0
    sizes = [sum(of[f"{split}_prompts"] for split in ("train", "validation", "test")) for of in (kept, dropped)]
    assert sizes[0] - sizes[1] == kept["near_duplicates"]


def test_every_task_has_the_parameter():
    registry = Registry.load()
    for name in registry.components("task"):
        assert registry.get("task", name).params.model_fields["near_duplicates"].default == "report"
    (usual,), (asked,) = (choose(registry, "task", f"demo{more}") for more in ("", "[near_duplicates=drop]"))
    assert usual.label == "demo"
    assert usual.public()["params"] == {}, "keys without it stay"
    assert asked.label == "demo[near_duplicates=drop]"
    assert asked.public()["params"] == {"near_duplicates": "drop"}


def test_a_task_of_a_plugin_has_it_too():
    from plad_bench.contract.params import Params, param

    class Own(Params):
        """Parameters."""

        size: int = param(3, ge=1)
        """How many."""

    task = Task(
        name="own", summary="", load=lambda params: [], dataset="here", licence="CC0-1.0", redistributable=True,
        metrics=("length",), student="tiny", params=Own,
    )  # fmt: skip
    params = task.params(size=4, near_duplicates="drop")
    assert isinstance(params, Own)
    assert params.public() == {"size": 4, "near_duplicates": "drop"}
    assert task.params().public() == {"size": 3}
    assert task.params.__module__ == __name__, "its source is keyed while it is edited"


def test_too_little_data_says_what_became_of_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [{"prompt": f"Sort 3 1 2 {'!' * n}", "response": "1 2 3"} for n in range(40)]
    (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [*rows, rows[0]]))
    result = plan("jsonl[path=mine.jsonl]")
    assert result.return_value == 1
    said = " ".join(result.stderr.split())
    assert "40 distinct prompts in all; only 1 of them differ in their words, and the same words share a split" in said
    assert "1 more rows repeat one of these prompts" in said


def test_the_page_says_it_and_names_the_words(tmp_path):
    counts = {"data.train_prompts": 80.0, "data.same_words": 12.0, "data.near_duplicates_dropped": 1.0}
    columns = {"length": (np.arange(20.0), None, "words")}
    synthetic.put(tmp_path, *synthetic.record(columns=columns, counts=counts))
    shown = load(tmp_path)
    for page in (markdown.render(shown), html.render(shown)):
        assert "12 prompts have the same words as another prompt" in page
        assert "1 prompt is a near-duplicate of one in a later split and is left out" in page
        assert "in scripts without spaces (Chinese, Japanese, Thai and others) each character" in page


def test_nothing_is_said_of_data_that_is_as_it_came():
    assert list(facts({"train_prompts": 80.0, "references": 100.0})) == []
    (told,) = facts({"data.references_repeated": 2.0}, "data.")
    assert told == "2 references are the same as another one of their prompt, and are left out"


def test_a_record_has_the_version_of_its_data():
    from plad_bench.execute import recording

    versions = {}
    for selector in ("demo", "demo[near_duplicates=drop]"):
        asked = spec.build(tiny.registry(), task=selector, methods="none")
        cell = matrix.cells(asked, tiny.registry())[0]
        versions[selector] = recording._identity(cell)["task"].data_version
    assert versions == {"demo": 1, "demo[near_duplicates=drop]": 2}


def test_records_of_other_data_versions_are_not_compared(tmp_path):
    columns = {"length": (np.arange(20.0), None, "words")}
    for seed, version in ((0, 1), (1, 2)):
        data, scores = synthetic.record(columns=columns, seed=seed)
        synthetic.put(tmp_path, {**data, "task": {**data["task"], "data_version": version}}, scores)
    assert len({cell.group for cell in validation.found(tmp_path / "cells", [])}) == 2
