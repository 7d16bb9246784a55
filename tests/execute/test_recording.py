"""Records made from cells: what may depend on the store, and what may never be in them."""

import hashlib
import json
import os
import threading
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
from plad_bench.plan.chosen import choose
from plad_bench.records import storage
from plad_bench.running.pages import PAGES_LOCK, outdated


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
        prompts = [{"id": f"{k:02}", "prompt": f"p{k}\u2028", "references": ["r"]} for k in range(40)]
        (path / "test.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in prompts))
        said = [{"id": row["id"], "responses": [{"text": f"{k} " * 3000}]} for k, row in enumerate(prompts)][::-1]
        (path / "responses.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
        number = 2.0 if stage.key in {s.key for s in cell.plan.teacher_model.walk()} else 1.0
        manifest = {
            "counts": {"n": number},
            "cost": {"device_seconds": 1.0},
            "seconds": 1.0,
            "notes": {},
            "provenance": {},
        }
        files = {f.name: {"sha256": hashlib.sha256(f.read_bytes()).hexdigest()} for f in path.iterdir()}
        facts = {"key": stage.key, "document": {"stage": stage.name}, "files": files}
        found[stage.key] = Artifact(path, {**facts, **manifest})
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


def test_samples_are_of_the_first_prompts_and_stay_when_the_text_is_pruned(cell, artifacts, tmp_path):
    record = recording.write_done(tmp_path, cell, artifacts, ["run"])
    file = (tmp_path / cell.id).with_name(record.samples.file)
    samples = storage.read_samples(file, record.samples.sha256)
    assert [s.example for s in samples] == [f"{k:02}" for k in range(16)]
    assert (samples[3].prompt, samples[3].reference) == ("p3\u2028", "r")
    assert samples[3].response == ("3 " * 3000)[: storage.LONGEST_SAMPLE] + "…"
    before = file.read_bytes()
    left = {key: artifacts[key] for key in (cell.checkpoint.key, cell.scores["rouge-l"].key)}
    assert recording.write_done(tmp_path, cell, left, ["run"]).samples == record.samples
    assert file.read_bytes() == before


@pytest.mark.parametrize("without", ["redistributable", "seed", "limit"])
def test_samples_are_kept_of_one_whole_seed_of_a_task_that_may_be_given(cell, artifacts, tmp_path, without):
    recording.write_done(tmp_path, cell, artifacts, ["run"])
    match without:
        case "redistributable":
            task = replace(cell.task.component, redistributable=False)
            other = replace(cell, task=replace(cell.task, registered=Registered(task, cell.task.registered.origin)))
        case "seed":
            other = replace(cell, seed=1)
        case "limit":
            other = replace(cell, protocol=replace(cell.protocol, limit=5))
    record = recording.write_done(tmp_path, other, artifacts, ["run"])
    assert record.samples is None
    assert not (tmp_path / other.id).with_suffix(".samples.jsonl").exists()


def test_scores_and_values_agree(cell, artifacts, tmp_path):
    record = recording.write_done(tmp_path, cell, artifacts, ["run"])
    assert (record.metrics["rouge-l"].value, record.metrics["rouge-l"].n) == (0.5, 2)
    file = (tmp_path / cell.id).with_suffix(".json").with_name(record.scores.file)
    ids, columns = storage.read_scores(file, record.scores.sha256)
    assert ids == ("a", "b")
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


def remade(artifacts, cell, seconds=1.0):
    """The artifacts after another training, whose model writes other text."""
    old = artifacts[cell.responses.key]
    files = {**old.manifest["files"], "responses.jsonl": {"sha256": "0" * 64}}
    return artifacts | {old.key: Artifact(old.path, {**old.manifest, "files": files, "seconds": seconds})}


def test_scores_of_other_responses_of_the_same_key_are_not_merged(cell, artifacts, tmp_path, caplog):
    """Another machine's record counts for nothing once the cell was trained again here: no record mixes two models."""
    registry = tiny.registry()
    run = spec.build(registry, task="demo", methods="plad", metrics="length")
    other = next(c for c in matrix.cells(run, registry) if c.row == "plad")
    (stage,) = other.scores.values()
    artifacts[stage.key] = replace(artifacts[cell.scores["rouge-l"].key])
    recording.write_done(tmp_path, cell, artifacts, ["run"])
    same = recording.write_done(tmp_path, other, artifacts, ["run"])
    assert set(same.metrics) == {"rouge-l", "length"}
    assert not caplog.records
    apart = recording.write_done(tmp_path, other, remade(artifacts, cell), ["run"])
    assert set(apart.metrics) == {"length"}
    assert "its scores by rouge-l are left out" in caplog.text


def test_a_record_knows_the_responses_and_the_weights_that_it_rests_on(cell, artifacts, tmp_path):
    model = artifacts[cell.checkpoint.key]
    model.manifest["files"]["model/model.safetensors"] = {"sha256": "1" * 64}
    record = recording.write_done(tmp_path, cell, artifacts, ["run"])
    responses = artifacts[cell.responses.key]
    assert recording.rests_on(record, responses, model)
    assert recording.rests_on(record, responses, None)
    assert not recording.rests_on(record, remade(artifacts, cell)[responses.key], model)
    files = {**model.manifest["files"], "model/model.safetensors": {"sha256": "2" * 64}}
    assert not recording.rests_on(record, responses, Artifact(model.path, {**model.manifest, "files": files}))
    earlier = record.model_copy(update={"provenance": {}})  # versions before wrote no hash
    assert recording.rests_on(earlier, responses, model)
    assert not recording.rests_on(earlier, remade(artifacts, cell, seconds=1.5)[responses.key], model)


def test_a_kill_between_scores_and_record_costs_neither_earlier_metrics_nor_the_cell(cell, artifacts, tmp_path):
    two = replace(cell, metrics=choose(tiny.registry(), "metric", "rouge-l,length"))
    artifacts = {**artifacts, two.scores["length"].key: artifacts[cell.scores["rouge-l"].key]}
    first = recording.write_done(tmp_path, cell, artifacts, ["run"])
    file = recording.path_of(tmp_path, cell.id)
    record = file.read_bytes()
    recording.write_done(tmp_path, two, artifacts, ["run"])
    assert recording.recorded(tmp_path, cell) is not None
    file.write_bytes(record)  # as if the kill had come before it was written anew
    assert recording.recorded(tmp_path, cell) is None
    length = replace(two, metrics=two.metrics[1:])
    again = recording.write_done(tmp_path, length, artifacts, ["run"])
    assert again.metrics["rouge-l"] == first.metrics["rouge-l"]
    assert set(again.metrics) == {"rouge-l", "length"}
    assert recording.recorded(tmp_path, two) is not None


def test_runs_that_add_metrics_at_once_lose_none(cell, artifacts, tmp_path):
    names = ["rouge-l", "rouge-1", "rouge-2", "length"]
    whole = replace(cell, metrics=choose(tiny.registry(), "metric", ",".join(names)))
    artifacts = {**artifacts, **{s.key: artifacts[cell.scores["rouge-l"].key] for s in whole.scores.values()}}
    start = threading.Barrier(len(names))

    def go(metric):
        start.wait()
        recording.write_done(tmp_path, replace(cell, metrics=(metric,)), artifacts, ["run"])

    threads = [threading.Thread(target=go, args=(metric,)) for metric in whole.metrics]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(recording.recorded(tmp_path, whole).metrics) == set(names)


def test_a_record_that_cannot_be_read_for_now_is_not_taken_for_lost(cell, artifacts, tmp_path, monkeypatch):
    recording.write_done(tmp_path, cell, artifacts, ["run"])

    def full(self, *args, **more):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", full)
        for ask in (recording.recorded, recording.failure):
            with pytest.raises(storage.UnreadableError, match="Too many open files"):
                ask(tmp_path, cell)
    assert recording.recorded(tmp_path, cell) is not None


def test_a_record_tells_of_what_is_gone_by_what_was_made_from_it(cell, artifacts, tmp_path):
    whole = recording.write_done(tmp_path / "whole", cell, artifacts, ["run"])
    gone = [stage.key for stage in cell.checkpoint.walk() if stage.name in {"teach", "sample", "pairs"}]
    assert len(gone) == 3
    made = artifacts[cell.checkpoint.key]
    made.manifest["before"] = {key: artifacts[key].facts[key] for key in gone}
    left = {key: artifact for key, artifact in artifacts.items() if key not in gone}
    record = recording.write_done(tmp_path / "left", cell, left, ["run"])
    assert record.essence() == whole.essence()
    assert (record.cost, record.timing) == (whole.cost, whole.timing)


def test_pages_that_a_killed_run_did_not_write_are_written_by_the_next(tmp_path):
    board, record = tmp_path / "mine", tmp_path / "mine" / "cells" / "task" / "seed-0.json"
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    assert outdated(board)
    (board / "README.md").write_text("")
    os.utime(record, (1000, 1000))
    assert not outdated(board)
    (tmp_path / PAGES_LOCK).touch()  # the kill came while they were written
    assert outdated(board)
    (tmp_path / PAGES_LOCK).unlink()
    os.utime(board / "README.md", (999, 999))  # or before
    assert outdated(board)
