"""The training loop: micro-batches, gradients, the learning rate, and going on after an interruption."""

from __future__ import annotations

import gc
import itertools
import math
import weakref

import pytest
import tiny
import torch
from killing import killed_at
from plain_training import RAGGED, TOKENS, gradients, method, reference, same_weights, start_of, token_loss

from plad_bench.contract.errors import MissingError, StageError
from plad_bench.learn import length, objectives, sequences, training


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


def train(module, data, directory, *, steps=2, lr=1e-3, precision="float32"):
    """Train a module of a test's own."""
    return training.train(
        module,
        data,
        length=length.StepCount(steps),
        lr=lr,
        seed=0,
        precision=precision,
        device="cpu",
        checkpoint=directory / "checkpoint.pt",
        progress=lambda *_, **__: None,
    )


@pytest.mark.parametrize("name", ["seqkd", "kd", "distillm2", "plad", "dpo"])
def test_a_batch_equals_its_micro_batches(world, name):
    if name == "dpo":
        world.inputs["reference"] = reference(world)
    whole = world.train(name)
    for size in (1, 2, 4):  # 4 does not divide 6: the last micro-batch is smaller
        parts = world.train(name, micro_batch=size)
        tiny.same_training(start_of(world), tiny.weights(whole), tiny.weights(parts))
        for one, other in zip(tiny.curve(whole), tiny.curve(parts), strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    moved = max(float((v - tiny.weights(whole)[k]).abs().max()) for k, v in start_of(world).items())
    assert moved > 1e-4


@pytest.mark.parametrize("name", ["sft", "kd"])
def test_the_gradient_of_a_batch_is_the_sum_of_its_micro_batches(name):
    teacher = None if name == "sft" else tiny.llama(2)
    whole, parts = tiny.llama(1), tiny.llama(1)
    loss = token_loss(name, whole, teacher, RAGGED)
    loss.backward()
    total = 0.0
    for group in ([RAGGED[2]], [RAGGED[0], RAGGED[3]], [RAGGED[1]]):
        part = token_loss(name, parts, teacher, group, total=TOKENS)
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    for key, value in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[key], value, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_bf16_is_autocast_in_every_call_of_the_module(tmp_path, precision):
    seen = []

    class Watched(objectives.LossModule):
        def forward(self):
            made = self.predictor(batch).logits(slice(None))
            seen.append((made.dtype, next(self.parameters()).dtype))
            return made.float().sum(), {}

    module, batch = Watched(tiny.llama(1), None), sequences.collate(RAGGED, 2)

    class Data(training.Steps):
        def at(self, number, share):
            return training.Step(lambda size: [{}], 1, 1)

        def after(self, number, share, loss, *, ends_part):
            module()  # as a validation loss does
            return {}

    train(module, Data(), tmp_path, precision=precision)
    assert seen == [(torch.bfloat16 if precision == "bf16" else torch.float32, torch.float32)] * 4


def test_the_gradient_of_a_step_is_clipped_once(tmp_path, monkeypatch):
    """A loss with a gradient of 30, in three micro-batches, moves a weight as a gradient of 1 does."""

    class Steep(torch.nn.Linear):
        def forward(self):
            return 10 * self.weight.sum(), {}

    class Data(training.Steps):
        def at(self, number, share):
            return training.Step(lambda size: [{}] * 3, 3, 3)

    monkeypatch.setattr(
        training.optimizers, "make", lambda name, module, lr, device: torch.optim.SGD(module.parameters(), lr)
    )
    module = Steep(1, 1, bias=False)
    before = module.weight.item()
    result = train(module, Data(), tmp_path, steps=1, lr=0.5)
    assert module.weight.item() == pytest.approx(before - 0.5)
    assert result.curve[0]["gradient_norm"] == pytest.approx(30)


def test_the_learning_rate_rises_linearly_and_falls_to_zero():
    rates = [length.learning_rate(i, 100, 1.0) for i in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 1e-3


def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_step(tmp_path):
    class Scaled(torch.nn.Linear):
        def forward(self, scale):
            return super().forward(torch.ones(1, 1)).sum() * scale, {}

    class Data(training.Steps):
        def at(self, number, share):
            return training.Step(lambda size: [{"scale": math.inf if number == 4 else 1.0}], 1, 1)

    with pytest.raises(StageError, match="step 4"):
        train(Scaled(1, 1), Data(), tmp_path, steps=6)


@pytest.mark.parametrize("name", ["seqkd", "plad"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(world, monkeypatch, name):
    straight = world.train(name, steps=60, micro_batch=4)
    with killed_at(40):
        world.train(name, steps=60, name="again", micro_batch=4)
    assert (world.directory / "again" / "partial" / "checkpoint.pt").is_file()
    first = []
    real = sequences.collate
    monkeypatch.setattr(sequences, "collate", lambda *args: first.append(1) or real(*args))
    resumed = world.train(name, steps=60, name="again", micro_batch=4)
    assert len(first) == (60 - 25) * 2, "it went on from the checkpoint of step 25"
    same_weights(straight, resumed)
    assert tiny.curve(straight) == tiny.curve(resumed)
    assert straight.manifest["cost"]["tokens_trained"] == resumed.manifest["cost"]["tokens_trained"]


def test_dropout_resumes_too_and_depends_on_the_seed_alone(world):
    world.model("model", tiny.gpt2(1, dropout=0.2))
    straight = world.train("seqkd", steps=60)
    torch.rand(3)  # whatever else drew random numbers in this process
    with killed_at(40):
        world.train("seqkd", steps=60, name="again")
    torch.rand(5)
    same_weights(straight, world.train("seqkd", steps=60, name="again"))


def flipped(part):
    return lambda b: b[: (n := int(len(b) * part))] + bytes([b[n] ^ 4]) + b[n + 1 :]


@pytest.mark.parametrize(
    "tear",
    [
        *(lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b)), lambda b: b[:3]),
        *(flipped(part) for part in (0.3, 0.5, 0.7)),  # in the weights, which torch would load
    ],
)
def test_a_torn_checkpoint_means_beginning_again(world, tear):
    straight = world.train("seqkd", steps=30)
    with killed_at(29):
        world.train("seqkd", steps=30, name="again")
    checkpoint = world.directory / "again" / "partial" / "checkpoint.pt"
    checkpoint.write_bytes(torn := tear(checkpoint.read_bytes()))
    same_weights(straight, world.train("seqkd", steps=30, name="again"))
    assert checkpoint.with_suffix(".bad").read_bytes() == torn


def test_a_checkpoint_that_cannot_be_read_for_now_is_not_lost(world, monkeypatch):
    with killed_at(29):
        world.train("seqkd", steps=30, name="again")
    checkpoint = world.directory / "again" / "partial" / "checkpoint.pt"
    before = checkpoint.read_bytes()

    def full(*args, **more):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile", full)
        with pytest.raises(MissingError, match="cannot be read: Too many open files"):
            world.train("seqkd", steps=30, name="again")
    assert checkpoint.read_bytes() == before


def test_a_batch_out_of_all_proportion_to_the_data_is_refused_at_once(world):
    with pytest.raises(StageError, match=r"a global batch of 100000 would train on each of the \d+ training prompts"):
        world.train("seqkd", batch=100000)


@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_a_trained_student_leaves_the_memory_with_its_last_reference(tmp_path, precision):
    """Without the garbage collector, which may run long after the memory is needed."""
    (sft, settings), student = method("sft"), tiny.llama(1)
    module = objectives.TokenLoss(student, None, settings)

    class Data(training.Steps):
        def at(self, number, share):
            one = {"term": sft.objective.terms[0], "batch": sequences.collate(RAGGED, 2), "total": TOKENS}
            return training.Step(lambda size: [one], len(RAGGED), TOKENS)

    gc.disable()
    try:
        train(module, Data(), tmp_path, precision=precision)
        kept = weakref.ref(student)
        del student, module
        assert kept() is None
    finally:
        gc.enable()
