"""Sampled evaluation: its stages, the values of every sample, and the statistics in a record."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import tiny
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.examples import Response
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.execute import recording
from plad_bench.execute.stages import files, score
from plad_bench.execute.store import Artifact
from plad_bench.plan import matrix, search, spec
from plad_bench.plan.chosen import choose
from plad_bench.records import storage

SAMPLED = {"demo": {"evaluate_samples": 4}}


def cells(overrides=None, **given):
    registry = tiny.registry()
    run = spec.build(
        registry, **{"task": "demo", "methods": "kd", "metrics": "slot-errors,nll", **given}, overrides=overrides
    )
    return {cell.row: cell for cell in matrix.cells(run, registry)}


def test_samples_are_scored_by_metrics_of_text_and_by_their_diversity():
    cell = cells(SAMPLED)["kd"]
    labels = [
        "slot-errors",
        "nll",
        "slot-errors avg@4",
        *(f"slot-errors pass@{k}" for k in (1, 2, 4)),
        "sample-diversity",
    ]
    assert list(cell.scores) == labels
    assert {s.name for s in cell.scores["slot-errors"].walk()}.isdisjoint({"evaluate-samples", "score-samples"})
    samples = cell.scores["slot-errors pass@2"].inputs["responses"]
    assert {"temperature": 0.7, "samples": 4, "top_k": 0}.items() <= samples.spec.items()
    assert samples.label == "kd (seed 0): sample test responses"


def test_samples_change_no_other_key():
    without, sampled = cells()["kd"], cells(SAMPLED)["kd"]
    assert without.stages == tuple(s for s in sampled.stages if not s.name.endswith("-samples"))
    assert cells({"demo": {"evaluate_temperature": 1.0}})["kd"].stages == without.stages
    trial = search.trial(sampled, (), {}, sampled.metrics[0])
    assert not any(stage.name.endswith("-samples") for stage in trial.stages)


def test_every_model_is_sampled_with_the_seed_of_its_cell_and_a_teacher_of_text_is_not(tmp_path):
    of = cells(SAMPLED, seeds=2)
    assert {row for row, cell in of.items() if cell.samples} == {"teacher", "student", "sft-init", "kd"}
    assert of["teacher"].samples.spec["seed"] == 0
    file = tmp_path / "said.jsonl"
    file.write_text('{"prompt": "p", "response": "r"}\n')
    teacher = cells(SAMPLED, methods="seqkd", teacher=f"recorded[path='{file}']")["teacher"]
    assert teacher.samples is None
    assert "not sampled" in teacher.absent["sample-diversity"]


def test_diversity_needs_several_samples():
    cell = cells(metrics="slot-errors,sample-diversity")["kd"]
    assert list(cell.scores) == ["slot-errors"]
    assert "--evaluate-samples" in cell.absent["sample-diversity"]


def test_metrics_that_pay_for_requests_do_not_score_samples(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    cell = cells(SAMPLED, metrics="rouge-l,win-judge[model=m,base_url='http://localhost:1']")["kd"]
    assert [label for label in cell.scores if "@" in label] == ["rouge-l avg@4"]


# --------------------------------------------------------------------------------------------------------- the stage


@pytest.fixture
def stage(tmp_path):
    """Scores three samples of two prompts by a metric."""
    prompts = [files.Prompt(id=i, split="test", prompt="p", references=("a b c",), meta={}) for i in ("x", "y")]
    texts = {"x": ["a b c", "a b", "d"], "y": ["a b c", "a b c", "a b c"]}
    (tmp_path / "data").mkdir()
    (tmp_path / "samples").mkdir()
    files.write_prompts(tmp_path / "data", prompts, ["test"])
    rows = [{"id": i, "responses": [files.response_row(Response(text=t)) for t in of]} for i, of in texts.items()]
    files.write_lines(tmp_path / "samples" / files.RESPONSES, rows)
    inputs = {
        "data": Artifact(tmp_path / "data", {}),
        "responses": Artifact(tmp_path / "samples", {"document": {"stage": "samples", "spec": {"split": "test"}}}),
    }

    def run(name, **params):
        job = {"metric": tiny.named("metric", name, **params)}
        made = tiny.context(tmp_path, name=name, spec={"samples": 3}, job=job, inputs=inputs)
        score.run(made)
        return json.loads((made.out / files.VALUES).read_text()), made.notes

    return run


def test_each_sample_has_the_value_that_it_would_have_alone(stage):
    values, _ = stage("rouge-l")
    assert values == {"x": [1.0, pytest.approx(0.8), 0.0], "y": [1.0, 1.0, 1.0]}


def test_diversity_is_of_the_samples_of_one_prompt(stage):
    values, _ = stage("sample-diversity", n=1)
    assert values == {"x": [pytest.approx(4 / 6)] * 3, "y": [pytest.approx(3 / 9)] * 3}


def test_samples_do_not_depend_on_the_micro_batch_and_their_seeds_differ(tmp_path):
    world = tiny.World(tmp_path)
    sampling = {"temperature": 0.7, "top_k": 0, "seed": 0, "samples": 2}
    spec = {"split": "validation", "max_new_tokens": 6, "backend": "transformers", "precision": "float32", **sampling}
    one, other = (
        (world.run("generate", spec, memory_policy=MemoryPolicy(micro_batch=size)).path / files.RESPONSES).read_text()
        for size in (12, 5)
    )
    assert one == other
    first, second = zip(*([r["text"] for r in json.loads(line)["responses"]] for line in one.splitlines()), strict=True)
    assert first != second
    assert world.last.counts["parameters"] == sum(p.numel() for p in tiny.llama(1).parameters())


# -------------------------------------------------------------------------------------------------------- the record


def record_of(cell, tmp_path):
    """The record of a cell, whose samples of two prompts have these slot errors."""
    found = {}
    for stage in cell.stages:
        path = tmp_path / "artifacts" / stage.key
        path.mkdir(parents=True, exist_ok=True)
        of_samples = {"a": [0.0, 0.0, 0.5, 0.5], "b": [1.0, 0.0, 1.0, None]}
        values = of_samples if stage.name == "score-samples" else {"a": 0.25, "b": 0.75}
        (path / files.VALUES).write_text(json.dumps(values))
        (path / "test.jsonl").write_text("")
        (path / files.RESPONSES).write_text("")
        manifest = {"counts": {}, "cost": {}, "seconds": 2.0, "notes": {}, "provenance": {}}
        facts = {"key": stage.key, "document": {"stage": stage.name}, "files": {files.RESPONSES: {"sha256": "0"}}}
        found[stage.key] = Artifact(path, {**facts, **manifest})
    return recording.write_done(tmp_path / "cells", cell, found, ["run"])


def test_a_record_has_the_statistics_with_their_values_of_each_prompt(tmp_path):
    cell = cells(SAMPLED)["kd"]
    record = record_of(cell, tmp_path)
    mean, passed = record.metrics["slot-errors avg@4"], record.metrics["slot-errors pass@2"]
    assert (mean.value, mean.better, mean.unit) == (pytest.approx((1 / 4 + 2 / 3) / 2), "lower", "%")
    assert (passed.value, passed.better, passed.unit) == (pytest.approx((5 / 6 + 2 / 3) / 2), "higher", "%")
    assert (passed.sampled.metric, passed.sampled.kind, passed.sampled.k) == ("slot-errors", "pass", 2)
    assert record.metrics["slot-errors pass@4"].n == 1  # the other prompt has three values
    assert record.metrics["slot-errors"].sampled is None
    assert record.timing["evaluate-samples"] == 2.0
    ids, columns = storage.read_scores(tmp_path / "cells" / f"{cell.id}.scores.parquet", record.scores.sha256)
    assert dict(zip(ids, columns["slot-errors pass@2"], strict=True)) == {
        "a": pytest.approx(5 / 6),
        "b": pytest.approx(2 / 3),
    }
    assert recording.recorded(tmp_path / "cells", cell) == record


def test_weights_that_were_trained_again_are_not_said_to_have_the_statistics_of_others(tmp_path):
    cell = cells(SAMPLED)["kd"]
    record = record_of(cell, tmp_path)
    found = {stage.key: Artifact(tmp_path / "artifacts" / stage.key, {"provenance": {}}) for stage in cell.stages}
    again = recording.measured(record, SimpleNamespace(find=found.get), found[cell.checkpoint.key])
    assert {name: part.value for name, part in again.metrics.items()} == {"slot-errors": 0.5, "nll": 0.5}


def test_a_record_keeps_no_statistics_of_samples_under_other_settings(tmp_path):
    record_of(cells(SAMPLED)["kd"], tmp_path)
    again = cells({"demo": {"evaluate_samples": 4, "evaluate_temperature": 1.0}}, metrics="rouge-l")["kd"]
    assert recording.recorded(tmp_path / "cells", again) is None
    record = record_of(again, tmp_path)
    assert {"slot-errors", "rouge-l avg@4"} <= set(record.metrics)
    assert not any(name.startswith("slot-errors ") for name in record.metrics)
    same = replace(again, metrics=choose(tiny.registry(), "metric", "length,sample-diversity"))
    assert {"rouge-l avg@4", "length avg@4"} <= set(record_of(same, tmp_path).metrics)


# ------------------------------------------------------------------------------------------------------ the demo, once


@pytest.mark.slow
def test_a_run_samples_every_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))
    words = "run --methods none --sft-steps 2 --metrics slot-errors --max-new-tokens 40 --limit 8"
    result = CliRunner().invoke(cli, [*words.split(), "--evaluate-samples", "3", "--board", "b"])
    assert result.exit_code == 0, result.output
    records = [storage.read(path) for path in (tmp_path / "leaderboards" / "b" / "cells").glob("**/*.json")]
    assert {record.method.name for record in records} == {"teacher", "student", "sft-init"}
    for record in records:
        assert {"slot-errors", "slot-errors avg@3", "slot-errors pass@2", "sample-diversity"} <= set(record.metrics)
        assert record.metrics["slot-errors pass@1"].value <= record.metrics["slot-errors pass@3"].value
    teacher = next(record for record in records if record.method.name == "teacher")
    assert teacher.metrics["slot-errors pass@3"].value > 0.5
