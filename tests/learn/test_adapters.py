"""Training through low-rank adapters: only they learn, and what comes out is a whole model."""

from __future__ import annotations

import copy
import sys

import pytest
import tiny
import torch

from plad_bench.contract.errors import MissingError
from plad_bench.learn import adapters, models
from plad_bench.learn.chunked_logits import Predictor, agrees
from plad_bench.learn.objectives import TokenLoss
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.plan import matrix, requirements, spec

BATCH = [Tokens([0, 5, 6, 7], [8, 9, 1]), Tokens([0, 11], [12, 13, 14, 15, 16, 1])]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_only_adapters_learn(architecture):
    model = tiny.ARCHITECTURES[architecture](1)
    before = copy.deepcopy(model)
    adapters.adapt(model, 4, seed=0)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained
    assert all(".lora_" in name for name in trained)
    assert len(trained) == 2 * sum("lora_A" in name for name in trained)
    batch = collate(BATCH, 2)
    with torch.no_grad():  # they begin as nothing
        torch.testing.assert_close(Predictor(model)(batch).states, Predictor(before)(batch).states)
    params = tiny.registry().configure(tiny.registry().get("method", "sft"), {})
    module = TokenLoss(model, None, params)
    module(tiny.registry().get("method", "sft").objective.terms[0], batch, 9)[0].backward()
    assert {name for name, p in model.named_parameters() if p.grad is not None} == trained


def test_adapters_are_drawn_from_the_seed():
    drawn = []
    for seed in (0, 0, 1):
        model = tiny.llama(1)
        adapters.adapt(model, 4, seed)
        drawn.append(next(p for name, p in model.named_parameters() if "lora_A" in name))
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_merged_adapters_say_what_they_said_beside_the_weights():
    model = tiny.llama(1)
    adapted = adapters.adapt(model, 4, seed=0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.1)
        batch = collate(BATCH, 2)
        beside = Predictor(model)(batch).states
        merged = adapters.merge(adapted)
        assert set(merged.state_dict()) == set(tiny.llama(1).state_dict())
        torch.testing.assert_close(Predictor(merged)(batch).states, beside, rtol=1e-4, atol=1e-4)
    assert all(p.requires_grad for p in merged.parameters())


def test_chunks_and_rollouts_know_nothing_of_adapters():
    model = tiny.llama(1)
    adapters.adapt(model, 4, seed=0)
    assert agrees(model, collate(BATCH, 2))
    assert Predictor(model, 3)(collate(BATCH, 2)).states.shape == (9, 16)
    sample = [[0, 5, 6], [0, 7]], ["a", "b"], 0
    from plad_bench import Sampling

    plain, adapted = (
        Rollouts(m, None, tiny.tokenizer(), max_new_tokens=6, seed=0).sample(*sample, Sampling())
        for m in (tiny.llama(1), model)
    )
    assert plain == adapted


@pytest.mark.parametrize("method", ["sft", "kd", "plad"])
def test_a_stage_trains_through_adapters_and_hands_on_a_whole_model(tmp_path, method):
    world = tiny.World(tmp_path)
    trained = world.train(method, lora=4, lr=1e-2)
    model, _ = models.load(trained.path / "model", "cpu", "float32")
    start, _ = models.load(world.inputs["model"].path / "model", "cpu", "float32")
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, dict(start.named_parameters())[n])}
    assert moved
    assert all("proj" in name for name in moved)  # neither embeddings, norms nor the head
    for name in moved:
        change = (dict(model.named_parameters())[name] - dict(start.named_parameters())[name]).detach()
        assert torch.linalg.matrix_rank(change, atol=1e-5) <= 4


def test_a_killed_training_of_adapters_resumes(tmp_path, monkeypatch):
    from plad_bench.learn import training

    world = tiny.World(tmp_path)
    whole = tiny.weights(world.train("sft", lora=2, steps=30))
    saved = training._save

    def killed(*args):
        saved(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(training, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        world.train("sft", lora=2, steps=30, name="again")
    monkeypatch.undo()
    resumed = tiny.weights(world.train("sft", lora=2, steps=30, name="again"))
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_without_peft_a_run_with_adapters_stops_before_any_work(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    run = spec.build(tiny.registry(), task="demo", methods="kd", overrides={"demo": {"lora": 4}})
    cells = matrix.cells(run, tiny.registry())
    with pytest.raises(MissingError, match="peft, which is not installed") as error:
        requirements.check(cells)
    assert "plad-bench[lora]" in error.value.remedy
    requirements.check(cells, made=lambda key: True)  # what is trained already needs it no more


def test_without_peft_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(MissingError, match="need the package peft") as error:
        adapters.adapt(tiny.llama(1), 4, 0)
    assert "plad-bench[lora]" in error.value.remedy
