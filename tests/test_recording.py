"""Records made from cells: what may depend on the store, and what may never be in them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny

from plad_bench.contract.registry import Registered
from plad_bench.execute import recording
from plad_bench.execute.engine import Failure
from plad_bench.execute.store import Artifact
from plad_bench.plan import matrix, spec
from plad_bench.report import results


@pytest.fixture
def cell():
    registry = tiny.registry()
    run = spec.build(registry, task="demo", methods="plad", metrics="rouge-l")
    return next(c for c in matrix.cells(run, registry) if c.row == "plad")


@pytest.fixture
def artifacts(cell, tmp_path):
    """An artifact for every stage of the cell, with the name of its stage counted."""
    found = {}
    for stage in [*cell.scores["rouge-l"].walk(), *cell.plan.teacher_model.walk()]:
        path = tmp_path / "artifacts" / stage.key
        path.mkdir(parents=True, exist_ok=True)
        (path / "values.json").write_text('{"a": 0.25, "b": 0.75}')
        number = 2.0 if stage.key in {s.key for s in cell.plan.teacher_model.walk()} else 1.0
        manifest = {
            "counts": {"n": number},
            "cost": {"device_seconds": 1.0},
            "seconds": 1.0,
            "notes": {},
            "provenance": {},
        }
        found[stage.key] = Artifact(path, {"key": stage.key, **manifest})
    return found


def test_counts_are_of_the_cells_own_stages_whatever_is_known_of_the_teachers(cell, artifacts, tmp_path):
    full = recording.write_done(tmp_path / "full", cell, artifacts, ["run"])
    shipped = {key: a for key, a in artifacts.items() if key != cell.plan.teacher_model.inputs["model"].key}
    assert len(shipped) == len(artifacts) - 1
    bare = recording.write_done(tmp_path / "bare", cell, shipped, ["run"])
    assert full.counts["init.n"] == 1.0
    assert full.essence() == bare.essence()


def test_counts_stay_when_a_new_metric_is_scored_after_a_prune(cell, artifacts, tmp_path):
    first = recording.write_done(tmp_path / "cells", cell, artifacts, ["run"])
    left = {key: artifacts[key] for key in (cell.responses.key, cell.checkpoint.key, cell.scores["rouge-l"].key)}
    again = recording.write_done(tmp_path / "cells", cell, left, ["run"])
    assert first.counts
    assert again.essence() == first.essence()


def test_scores_and_values_agree(cell, artifacts, tmp_path):
    record = recording.write_done(tmp_path, cell, artifacts, ["run"])
    assert (record.metrics["rouge-l"].value, record.metrics["rouge-l"].n) == (0.5, 2)
    file = (tmp_path / cell.id).with_suffix(".json").with_name(record.scores.file)
    ids, columns = results.read_scores(file, record.scores.sha256)
    assert ids == ["a", "b"]
    np.testing.assert_array_equal(columns["rouge-l"], [0.25, 0.75])


@pytest.mark.parametrize("redistributable", [True, False])
def test_a_failure_quotes_no_text_of_a_task_that_may_not_be_given(cell, redistributable, tmp_path):
    task = replace(cell.task.component, redistributable=redistributable)
    chosen = replace(cell.task, registered=Registered(task, cell.task.registered.origin))
    failure = Failure("data", "prompt 'the secret text' is in /home/me/data.csv", Path("log"))
    record = recording.write_undone(tmp_path, replace(cell, task=chosen), failure, ["run"])
    assert ("secret" in record.reason) == redistributable
    assert "/home" not in record.reason


def test_a_command_holds_no_path_of_this_machine(cell, artifacts, tmp_path):
    arguments = ["-p", "/home/me/plugins/mine.py", "run", "--store=/home/me/store", "--task", "e2e[path=../data/e2e]"]
    record = recording.write_done(tmp_path, cell, artifacts, arguments)
    command = record.provenance["command"]
    assert "/home" not in command
    assert "../" not in command
    assert command == "plad-bench -p mine.py run --task 'e2e[path=e2e]'"
