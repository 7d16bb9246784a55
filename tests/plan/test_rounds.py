"""Rounds: parts of a training that begin with new samples of the student, from the plan to the record."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import instant
import pytest
import tiny
from click.testing import CliRunner

from plad_bench import Method, MethodParams
from plad_bench.cli.main import cli
from plad_bench.contract import registry, rounds
from plad_bench.execute import worker
from plad_bench.execute.stages.files import CURVE
from plad_bench.learn.length import Result, StepCount
from plad_bench.plan import expenses, matrix, spec
from plad_bench.records import storage


def cells(methods, **protocol):
    run = spec.build(tiny.registry(), task="demo", methods=methods, overrides={"demo": protocol})
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_rounds_divide_the_steps():
    assert list(rounds.parts(300, 3)) == [(0, 100), (100, 100), (200, 100)]
    assert list(rounds.parts(10, 4)) == [(0, 2), (2, 3), (5, 2), (7, 3)]


def test_each_round_trains_the_model_of_the_one_before_on_samples_of_it():
    found = cells("plad[rounds=3],plad,plad[rounds=1]", steps=90)
    assert len(found) == 2 + 3  # rounds=1 is the default
    last, usual = found["plad[rounds=3]"].checkpoint, found["plad"].checkpoint
    second = last.inputs["model"]
    first = second.inputs["model"]
    assert [one.name for one in (first, second, last)] == ["distill-1", "distill-2", "distill"]
    assert [(one.spec["steps"], one.spec["part"]) for one in (first, second, last)] == [
        (30, [0, 90]), (30, [30, 90]), (30, [60, 90]),
    ]  # fmt: skip
    assert first.inputs["model"].key == usual.inputs["model"].key
    assert first.inputs["pairs"].key == usual.inputs["pairs"].key
    for one, before, number in ((second, first, 2), (last, second, 3)):
        pairs = one.inputs["pairs"]
        assert pairs.name == f"pairs-{number}"
        assert pairs.inputs["sample"].name == f"sample-{number}"
        assert pairs.inputs["sample"].inputs["model"].key == before.key
        assert pairs.inputs["teach"].key == usual.inputs["pairs"].inputs["teach"].key
    assert "part" not in usual.spec
    names = [stage.name for stage in last.walk() if stage.name != "init"]  # of teacher and student
    assert len(names) == len(set(names))


def test_the_reference_model_and_precomputed_log_probabilities_follow_the_samples():
    last = cells("dpo[rounds=2]")["dpo[rounds=2]"].checkpoint
    reference = last.inputs["reference"]
    assert (reference.name, reference.inputs["model"].name) == ("reference-2", "sft-init")
    assert reference.inputs["pairs"].key == last.inputs["pairs"].key
    dense = cells("distillm2[rounds=2]", teacher_logprobs="dense")["distillm2[rounds=2]"].checkpoint
    assert {role: stage.name for role, stage in dense.inputs.items() if role.startswith(("signals", "sample"))} == {
        "sample": "sample-2", "signals-sample": "signals-sample-2", "signals-teacher": "signals-teacher",
    }  # fmt: skip
    assert dense.inputs["signals-sample"].inputs["sample"].key == dense.inputs["sample"].key


@pytest.mark.parametrize(
    ("method", "protocol", "reason"),
    [
        ("plad[rounds=3]", {}, ""),
        ("kd[rounds=3]", {}, "kd[rounds=3] does not train on off-policy samples, so it cannot train in rounds"),
        ("plad[rounds=3]", {"steps": 2}, "2 steps cannot be divided into 3 rounds"),
        ("plad[rounds=3]", {"evaluate_at": "50"}, "models are not evaluated during a training in rounds"),
        ("plad[rounds=3]", {"budget": "tokens=5000"}, "is not divided into rounds (plad[rounds=3])"),
    ],
)
def test_what_cannot_be_trained_in_rounds_is_skipped_with_the_reason(method, protocol, reason):
    said = cells(method, **protocol)[method].skip
    assert (reason in said) if reason else not said


def test_a_part_of_a_training_has_its_numbers_and_its_rates():
    whole, done = StepCount(30), Result()
    for first in (0, 10, 20):
        part, mine = StepCount(10, first, 30), Result()
        while part.share(mine) < 1:
            assert part.number(mine) == whole.number(done)
            assert part.rate(mine, 1e-3) == whole.rate(done, 1e-3)
            done.milliseconds.append(1.0)
            mine.milliseconds.append(1.0)
    assert whole.share(done) == 1


def test_a_part_begins_with_the_batch_after_the_last_part(tmp_path):
    world = tiny.World(tmp_path)
    whole = tiny.curve(world.train("sft", steps=2, name="whole"))
    tail = tiny.curve(world.train("sft", steps=1, part=[1, 2], name="tail"))
    assert [row["step"] for row in tail] == [1]
    assert tail[0]["lr"] == whole[-1]["lr"]
    alone = world.train("sft", steps=1, lr=0.0, name="first")
    world.inputs["model"] = alone
    assert tiny.curve(world.train("sft", steps=1, part=[1, 2], lr=0.0, name="again"))[0]["loss"] == pytest.approx(
        tail[0]["loss"]
    )


def test_costs_add_up_over_rounds_but_for_the_largest_memory():
    checkpoint = cells("plad[rounds=2]")["plad[rounds=2]"].checkpoint
    cost = {"device_seconds": 2.0, "tokens_trained": 10, "tokens_generated": 5, "peak_memory_bytes": 7}
    facts = {stage.key: {"cost": cost} for stage in checkpoint.walk()}
    stages = [(stage.name, stage.key) for stage in checkpoint.walk()]
    found = expenses.total(expenses.of_cell(stages, checkpoint.key, ""), facts)
    assert found["train_device_seconds"] == 4
    assert found["tokens_trained"] == 20
    assert found["sample_device_seconds"] == 4
    assert found["peak_memory_bytes"] == 7


def test_a_record_has_all_rounds(tmp_path, monkeypatch):
    def operation(context):
        instant.operation(context)
        if "part" in context.spec:
            (context.out / CURVE).write_text(json.dumps({"step": context.spec["part"][0], "loss": 1}) + "\n")

    program = instant.Program(tmp_path, monkeypatch)
    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=operation))
    run = ("run", "--methods", "plad[rounds=3]", "--board", "mine", "--metrics", "rouge-l", "--steps", "6")
    program(*run)
    (file,) = tmp_path.rglob("plad-rounds=3/seed-0.json")
    record = storage.read(file)
    names = {"distill-1", "distill-2", "distill", "sample", "sample-2", "sample-3", "pairs-3"}
    assert names <= record.timing.keys()
    curve = file.with_suffix(".curve.csv").read_text().splitlines()
    assert [row["step"] for row in csv.DictReader(curve)] == ["0", "2", "4"]
    program(*run, "--rerun", "all")
    assert {*names, "pairs-2"} - {"sample"} <= set(program.made)
    shutil.rmtree(store_of(program, "distill-1"))
    curve = file.with_suffix(".curve.csv").read_bytes()
    program(*run[:-2], "--metrics", "rouge-l,length", "--steps", "6")
    assert storage.read(file).metrics.keys() == {"rouge-l", "length"}
    assert file.with_suffix(".curve.csv").read_bytes() == curve  # which has a round that is no longer in the store


def store_of(program, stage):
    """The directory of the artifact of a stage that was made once."""
    manifests = (program.directory / "store" / "artifacts").rglob("manifest.json")
    (found,) = [file.parent for file in manifests if json.loads(file.read_text())["document"]["stage"] == stage]
    return found


def test_trials_of_a_method_are_one_line_of_the_estimate_for_each_kind_of_stage(tmp_path):
    place = ("--store", str(tmp_path / "s"), "--boards-dir", str(tmp_path / "b"), "--gpus", "none")
    asked = ("--methods", "plad[rounds=2]", "--tune", "3")
    shown = CliRunner().invoke(cli, ["plan", *place, *asked], standalone_mode=False).stdout
    lines = [line.split(" (")[0].strip() for line in shown.splitlines() if line.startswith("  trials of plad")]
    stages = ("generate training responses, round 2", "train", "train, round 1")
    assert sorted(lines) == [f"trials of plad: {stage}" for stage in stages]


def test_a_plugin_cannot_give_rounds_another_meaning():
    class Own(MethodParams):
        rounds: int = 4

    kd = tiny.registry().get("method", "kd")
    with pytest.raises(ValueError, match="every method has a parameter `rounds`"):
        registry._check(replace(kd, params=Own), Method)
