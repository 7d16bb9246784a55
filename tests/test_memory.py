"""Sparing a device's memory: what is tried in which order, and that it changes no number."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from plad_bench.contract.records import LauncherSession, StageProcess
from plad_bench.execute.engine import Engine, Thrift
from plad_bench.execute.store import Store
from plad_bench.execute.worker import OUT_OF_MEMORY
from plad_bench.learn import adapters, models, objectives
from plad_bench.learn.predictions import Predictor
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.plan.stages import Stage

SEQUENCES = [Tokens([0, 5, 6, 7], [8, 9, 1]), Tokens([0, 11], [12, 13, 14, 15, 16, 1])]


class Ended(StageProcess):
    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


class Small(LauncherSession):
    """A device that is always too small, and remembers what was tried on it."""

    slots = 1
    device = "cpu"

    def __init__(self):
        self.tried = []

    def start(self, job, log, slots):
        asked = json.loads(job.read_text())
        self.tried.append((asked["micro_batch"], asked["checkpointing"]))
        return Ended(OUT_OF_MEMORY)

    def close(self):
        pass


@pytest.mark.parametrize(
    ("spec", "tried"),
    [
        ({"batch": 16}, [(0, False), (8, False), (4, False), (4, True), (2, True), (1, True)]),
        ({"batch": 6}, [(0, False), (0, True), (3, True), (1, True)]),
        ({"batch": 1}, [(0, False), (0, True)]),
        ({}, [(0, False)]),
    ],
)
def test_micro_batches_shrink_then_activations_are_checkpointed_then_they_shrink_on(tmp_path, spec, tried):
    store, session = Store(tmp_path), Small()
    store.prepare()
    stage = Stage(name="distill", operation="train", spec=spec)
    engine = Engine(store, lambda: session, tmp_path / "runs", threads=1)
    engine.run([[stage]], lambda: None)
    assert session.tried == tried
    assert list(engine.failures) == [stage.key]


def test_every_thrift_ends():
    thrift, count = Thrift(), 0
    while (more := thrift.more(1000)) is not None:
        assert more != thrift
        thrift, count = more, count + 1
    assert thrift == Thrift(1, checkpointing=True)
    assert count == 10


def step_of(model, *, rows, lora, checkpointed):
    """Loss and gradients of a kd step in train mode, and how often its only layer's MLP was computed."""
    if checkpointed:
        models.checkpoint(model)
    if lora:
        adapters.adapt(model, 2, seed=0)
    kd = tiny.registry().get("method", "kd")
    module = objectives.TokenLoss(model, tiny.llama(2), tiny.registry().configure(kd, {}), rows=rows)
    module.train()
    calls = []
    mlp = next(m for name, m in model.named_modules() if name.endswith("mlp"))
    mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    torch.manual_seed(3)
    loss, _ = module(kd.objective.terms[0], collate(SEQUENCES, 2), 9)
    before = len(calls)
    loss.backward()
    return loss, {n: p.grad for n, p in model.named_parameters() if p.grad is not None}, len(calls) - before


@pytest.mark.parametrize("lora", [False, True])
@pytest.mark.parametrize("rows", [0, 2])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_checkpointing_changes_no_gradient(architecture, rows, lora):
    more = {"dropout": 0.3} if architecture == "gpt2" else {}
    plain, checkpointed = (
        step_of(tiny.ARCHITECTURES[architecture](1, **more), rows=rows, lora=lora, checkpointed=on)
        for on in (False, True)
    )
    assert (plain[2], checkpointed[2]) == (0, 1)
    torch.testing.assert_close(checkpointed[:2], plain[:2])


def test_a_model_in_eval_mode_keeps_its_cache():
    model = tiny.llama(1)
    models.checkpoint(model)
    asked = {"input_ids": torch.tensor([[0, 5, 6]]), "use_cache": True}
    assert model.eval()(**asked).past_key_values.get_seq_length() == 3


@pytest.mark.parametrize("method", ["sft", "kd", "plad", "gkd"])
def test_a_stage_that_checkpoints_ends_with_the_same_weights(tmp_path, method):
    world = tiny.World(tmp_path)
    world.model("model", tiny.gpt2(seed=1, dropout=0.2))
    more = {"max_new_tokens": 6} if method == "gkd" else {}
    plain, checkpointed = (world.train(method, micro_batch=2, checkpointing=on, **more) for on in (False, True))
    torch.testing.assert_close(tiny.weights(checkpointed), tiny.weights(plain))
    assert checkpointed.manifest["cost"]["tokens_read"] > checkpointed.manifest["cost"]["tokens_trained"]
    assert checkpointed.manifest["cost"]["step_milliseconds"] > 0


def test_the_frozen_reference_reads_chunk_by_chunk(tmp_path, monkeypatch):
    world, made = tiny.World(tmp_path), []
    read = Predictor.__call__

    def small(self, batch):
        self.rows = 3
        made.append(read(self, batch))
        return made[-1]

    whole = world.run("reference", {"precision": "float32"})
    monkeypatch.setattr(Predictor, "__call__", small)
    chunked = world.run("reference", {"precision": "float32"})
    assert {p.chunk for p in made} == {3}
    assert {p.states.shape[1] for p in made} == {16}  # hidden states, not logits
    rows = [json.loads((a.path / "logprobs.json").read_text()) for a in (whole, chunked)]
    assert [list(r.values()) for r in rows[1]] == [pytest.approx(list(r.values()), rel=1e-4) for r in rows[0]]
