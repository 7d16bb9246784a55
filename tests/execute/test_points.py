"""Evaluation during a training: what is kept at its points, how it is scored and recorded, and what a board shows."""

from __future__ import annotations

import pytest
import tiny
import torch
from killing import killed_at

from plad_bench.contract import evaluation_points
from plad_bench.contract.errors import UsageError
from plad_bench.contract.protocol import Protocol, checked
from plad_bench.execute.stages.files import MODEL
from plad_bench.learn import models, points
from plad_bench.plan import matrix, search, spec
from plad_bench.plan.search import trial
from plad_bench.records import storage


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


def cells(methods="seqkd", **protocol):
    run = spec.build(tiny.registry(), task="demo", methods=methods, overrides={"demo": protocol})
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


@pytest.mark.parametrize("text", ["25,50,75,100%", "25%,50%,75%,100%", "75,25,50", "25,25,50,75"])
def test_a_list_of_shares_has_one_spelling(text):
    assert Protocol(evaluate_at=text).evaluate_at == "25,50,75"
    assert checked({"evaluate_at": text}) == {"evaluate_at": "25,50,75"}


@pytest.mark.parametrize("text", ["0", "101%", "25,200", "a", "25;50", "-5", "0.5"])
def test_other_shares_are_refused(text):
    with pytest.raises(UsageError, match="evaluate_at is"):
        Protocol(evaluate_at=text)


def test_ordinary_keys_stay_and_points_add_stages():
    plain, more = cells()["seqkd"], cells(evaluate_at="50,75")["seqkd"]
    assert cells(evaluate_at="100%")["seqkd"].responses.key == plain.responses.key
    assert more.checkpoint.key != plain.checkpoint.key
    assert more.plan.sft_init.key == plain.plan.sft_init.key
    assert set(more.scores) == {*plain.scores, *(f"{label} at {at}%" for label in plain.scores for at in (50, 75))}
    assert {stage.inputs["model"].key for stage in more.points.values()} == {more.checkpoint.key}
    added = [stage.action for stage in more.stages if "at" in stage.spec]
    assert added == [f"generate test responses after {at} % of the training" for at in (50, 75)]
    assert cells(evaluate_at="50")["sft-init"].responses.key == cells()["sft-init"].responses.key


def test_estimates_count_every_model_and_its_evaluation(tmp_path):
    from plad_bench.execute import outlook
    from plad_bench.execute.stages.data import preview
    from plad_bench.execute.store import Store

    cell = cells(evaluate_at="50,75")["seqkd"]
    data = {cell.task.label: preview(cell.task)}
    plain, more = (
        outlook.outlook([of], Store(tmp_path), data, outlook.cpu(1), outlook.Slots(1))
        for of in (cells()["seqkd"], cell)
    )
    assert more.seconds > plain.seconds
    (one,), (three,) = ([p.work.disk for p in of.parts if p.name == "seqkd: train"] for of in (plain, more))
    assert three == 3 * one
    assert [p.count for p in more.parts if "% of the training" in p.name] == [1, 1]


def test_slots_on_one_gpu_divide_its_memory_and_its_time(tmp_path):
    from plad_bench.execute import outlook
    from plad_bench.execute.stages.data import preview
    from plad_bench.execute.store import Store
    from plad_bench.plan.resources import GPUS
    from plad_bench.running.setup import slots_of

    options = {"workers": 0, "threads": 1, "ranks": 1, "shard": False, "teacher_gpus": 1}
    cell = cells()["seqkd"]
    data = {cell.task.label: preview(cell.task)}
    alone, shared, both = (
        outlook.outlook([cell], Store(tmp_path), data, GPUS["H100"], slots_of(options, gpus))
        for gpus in ([0], [0, 0, 0, 0], [0, 1])
    )
    assert shared.seconds == alone.seconds == 2 * both.seconds
    assert "Estimate, a stage at a time (GPU: 80.0 GB):" in outlook.lines(alone)
    assert "Estimate, a stage at a time (GPU: 20.0 GB for each of the 4 slots that share it):" in outlook.lines(shared)


def test_trials_of_tuning_have_no_points():
    cell = cells(evaluate_at="50")["seqkd"]
    assert not trial(cell, search.space(cell), {"lr": 0.1}, cell.metrics[0]).points


def logits(model):
    with torch.no_grad():
        return model(torch.tensor([[1, 5, 6, 7]]).to(model.device)).logits


def spied(monkeypatch):
    """File of weights -> the logits of the model that they were taken from."""
    seen, save = {}, points.save_trained

    def spy(model, file):
        model.eval()
        seen[file.stem] = logits(model)
        model.train()
        save(model, file)

    monkeypatch.setattr(points, "save_trained", spy)
    return seen


def at(artifact, percent):
    path = artifact.path / evaluation_points.directory(percent) / MODEL
    model, _ = models.load(path, "cpu", "float32")
    return logits(model)


@pytest.mark.parametrize("lora", [{}, {"lora": 2}])
def test_the_model_of_each_point_is_kept(world, monkeypatch, lora):
    if lora:
        pytest.importorskip("peft")
    seen = spied(monkeypatch)
    made = world.train("seqkd", steps=10, lr=1e-2, evaluate_at=[25, 50], **lora)
    assert list(seen) == ["at-25", "at-50"]
    for percent in (25, 50):
        torch.testing.assert_close(at(made, percent), seen[f"at-{percent}"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(at(made, 25), at(made, 50), atol=1e-3)


def test_points_do_not_change_the_training_and_know_what_it_had_cost(world):
    made, plain = world.train("kd", steps=8, evaluate_at=[25, 50]), world.train("kd", steps=8)
    for name, weight in tiny.weights(plain).items():
        assert torch.equal(weight, tiny.weights(made)[name])
    first, second = (made.manifest["notes"]["points"][percent] for percent in ("25", "50"))
    assert (first["steps"], second["steps"], made.manifest["cost"]["steps"]) == (2, 4, 8)
    for name in ("tokens_trained", "teacher_tokens_scored", "update_device_seconds"):
        assert 0 < first[name] < second[name] < made.manifest["cost"][name]


def test_points_are_shares_of_a_budget(world):
    budget = {"kind": "tokens", "amount": 400.0}
    job = {"method": tiny.named("method", "seqkd"), "before": {}}
    usual = {"lr": 1e-3, "batch": 2, "seed": 0, "precision": "float32", "evaluate_at": [50], "budget": budget}
    point = world.run("train", usual, job=job).manifest["notes"]["points"]["50"]
    assert 200 <= point["tokens_trained"] < 240


@pytest.mark.parametrize("killed", [30, 50])
def test_a_resumed_training_has_the_points_of_an_undisturbed_one(world, killed):
    shares = [25, 75]
    straight = world.train("seqkd", steps=60, evaluate_at=shares)
    with killed_at(killed):
        world.train("seqkd", steps=60, evaluate_at=shares, name="again")
    resumed = world.train("seqkd", steps=60, evaluate_at=shares, name="again")
    for percent in shares:
        assert torch.equal(at(straight, percent), at(resumed, percent))
        kept = [made.manifest["notes"]["points"][str(percent)]["tokens_trained"] for made in (straight, resumed)]
        assert kept[0] == kept[1]


def test_a_record_has_the_scores_of_every_point_and_is_found_again(tmp_path, monkeypatch):
    import instant

    program = instant.Program(tmp_path, monkeypatch)
    words = ["run", "--methods", "sft", "--metrics", "slot-errors", "--board", "b", "--gpus", "none"]
    program(*words, "--evaluate-at", "50,100%")
    assert program.made.count("generate") == 5  # three baselines, and two models of the method
    (file,) = (tmp_path / "leaderboards").glob("b/cells/**/sft/seed-0.json")
    record = storage.read(file)
    assert record.protocol["evaluate_at"] == "50"
    assert set(record.metrics) == {"slot-errors", "slot-errors at 50%"}
    assert record.metrics["slot-errors at 50%"].point.percent == 50
    assert "--evaluate-at 50" in record.provenance["command"]
    program(*words)
    assert program.made == []


@pytest.mark.slow
def test_a_run_evaluates_its_models_on_the_way(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from plad_bench.cli.main import cli

    monkeypatch.chdir(tmp_path)
    words = ["run", "--methods", "distillm2", "--sft-steps", "4", "--steps", "8", "--batch", "8", "--limit", "20"]
    words += ["--evaluate-at", "50%", "--max-new-tokens", "8", "--metrics", "nll", "--gpus", "none"]
    result = CliRunner().invoke(cli, [*words, "--store", "store", "--board", "b"], standalone_mode=False)
    assert result.return_value == 0, result.output
    (file,) = (tmp_path / "leaderboards").glob("b/cells/**/distillm2/seed-0.json")
    record = storage.read(file)
    nll = [record.metrics[label].value for label in ("nll at 50%", "nll")]
    assert len(set(nll)) == 2, "each is of another model"
    assert record.points["50"]["steps"] == 4
    assert "points" not in record.provenance["notes"].get("distill", {})
