"""Micro-batch and checkpointing are chosen by the estimate before the first step, and change nothing but rounding."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny

from plad_bench.cli.progress import limits
from plad_bench.contract import machine
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.execute.stages import memory_estimate
from plad_bench.learn import objectives
from plad_bench.plan import resources
from plad_bench.plan.resources import Device


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


@pytest.fixture
def room(monkeypatch):
    """A device with memory for so many sequences, or four times as many by checkpointing; the works it estimated."""

    def give(sequences):
        def needed(work, device, size, *, checkpointing, compiled):
            seen.append(work)
            return size / 4 if checkpointing else size

        monkeypatch.setattr(resources, "_training_memory", needed)
        monkeypatch.setattr(memory_estimate, "device_of", lambda name: Device(sequences, 0, 1, gpu=True))
        return seen

    seen = []
    return give


@pytest.mark.parametrize(
    ("method", "sequences", "batch", "policy"),
    [
        ("sft", 8, 8, MemoryPolicy()),
        ("sft", 4, 8, MemoryPolicy(4)),
        ("kd", 4, 8, MemoryPolicy(4)),
        ("kd", 3, 6, MemoryPolicy(0, checkpointing=True)),  # a half of 6 is below 4
        ("plad", 16, 8, MemoryPolicy()),
        ("plad", 8, 8, MemoryPolicy(4)),  # pairs of two sequences each
    ],
)
def test_a_batch_is_divided_before_the_first_step(world, room, method, sequences, batch, policy):
    start = world.inputs["model"]
    whole = world.train(method, batch=batch)
    seen = room(sequences)
    made, context = world.train(method, batch=batch), world.last
    assert context.memory_policy == policy
    assert seen[0].batch == batch * (2 if method == "plad" else 1)
    assert (seen[0].teacher is not None, seen[0].teacher_logits) == (method == "kd",) * 2
    limited = policy != MemoryPolicy()
    assert ("memory" in context.notes) == limited
    if limited:
        said = context.notes["memory"]
        assert (said["micro_batch"], said["checkpointing"]) == (policy.micro_batch, policy.checkpointing)
        assert said["estimated_bytes"] > 0
    tiny.same_training(tiny.weights(start), tiny.weights(whole), tiny.weights(made))


def test_what_cannot_fit_is_tried_one_sequence_at_a_time(world, room):
    room(0.01)
    world.train("sft")
    assert world.last.memory_policy == MemoryPolicy(1, checkpointing=True)


def test_limits_that_were_given_stay(world, room):
    room(2)
    world.train("sft", micro_batch=5)
    assert world.last.memory_policy == MemoryPolicy(5)
    assert "memory" not in world.last.notes


@pytest.mark.parametrize("gpu", [True, False])
def test_a_long_training_on_a_gpu_compiles_its_parts(world, monkeypatch, gpu):
    estimates, asked = [], []
    found = resources.training
    monkeypatch.setattr(resources, "training", lambda *given: estimates.append(found(*given)) or estimates[-1])
    monkeypatch.setattr(memory_estimate, "device_of", lambda name: Device(80e9, 0, 1, gpu=gpu))
    monkeypatch.setattr(objectives.TokenLoss, "compile_parts", lambda module: asked.append(type(module).__name__))
    monkeypatch.setattr(objectives.PairLoss, "compile_parts", lambda module: asked.append(type(module).__name__))
    world.train("kd", steps=1, name="short")
    monkeypatch.setattr(resources, "WORTH_COMPILING", 1)
    world.train("kd", steps=2)
    world.train("plad")
    assert asked == ["TokenLoss", "PairLoss"] * gpu
    assert [one.compiled for one in estimates] == [False, gpu, gpu]


def test_the_head_of_a_teacher_whose_states_were_precomputed_counts(world, room):
    seen = room(6)
    spec = {"text": "teacher", "k": 0, "precision": "float32"}
    world.inputs["signals-teacher"] = world.run("signals", spec)
    world.train("kd", params={"data": "teacher"})
    assert (seen[0].dense.width, seen[0].dense.vocabulary, seen[0].dense.layers) == (16, 300, 0)


def test_sampled_text_counts_at_its_full_length(world, room):
    seen = room(6)
    world.train("opd", max_new_tokens=7)
    assert seen[0].lengths.response == 7
    assert seen[0].lengths.longest == max(map(len, prompts_of(world))) + 7


def prompts_of(world):
    from plad_bench.execute.stages.files import read_prompts
    from plad_bench.learn.sequences import Encoder

    encoder = Encoder(tiny.tokenizer(), 128)
    return [encoder.prompt(p.prompt) for p in read_prompts(world.inputs["data"], "train")]


def test_the_machine_is_the_device_of_a_cpu():
    assert memory_estimate.device_of("cpu").memory == machine.memory() > 0


def test_the_run_says_how_a_stage_was_made_to_fit():
    def said(**provenance):
        return limits(SimpleNamespace(manifest={"provenance": provenance}))

    assert said(micro_batch=0) == ""
    assert said(micro_batch=4) == ", to fit the memory with micro-batches of 4"
    assert said(micro_batch=2, checkpointing=True).endswith("micro-batches of 2 and activations computed twice")
