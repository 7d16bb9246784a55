"""Sparing a device's memory: what is tried in which order, and that it changes no number."""

from __future__ import annotations

import gc
import inspect
import json
import weakref
from dataclasses import replace

import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn import adapters, generation, memory, models, objectives
from plad_bench.learn.chunked_logits import Predictor
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Tokens, collate

SEQUENCES = [Tokens([0, 5, 6, 7], [8, 9, 1]), Tokens([0, 11], [12, 13, 14, 15, 16, 1])]


@pytest.fixture(autouse=True, scope="module")
def quick():
    """What is tried again frees memory first; a collection that passes over all that torch imported takes a while."""
    gc.freeze()
    yield
    gc.unfreeze()


class Allocator:
    """A device that holds `room` sequences at a time, and remembers how many were tried."""

    def __init__(self, monkeypatch, room, error=lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to ...")):
        self.room, self.error, self.tried = room, error, []
        monkeypatch.setattr(LlamaModel, "forward", self.limited(LlamaModel.forward))

    def limited(self, forward):
        def limited(model, input_ids=None, **more):
            self.tried.append(len(input_ids))
            if len(input_ids) > self.room:
                raise self.error()
            return forward(model, input_ids=input_ids, **more)

        limited.__signature__ = inspect.signature(forward)
        return limited


ERRORS = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:75] data. DefaultCPUAllocator: not enough memory: you tried to"),
    RuntimeError("CUDA error: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    MemoryError(),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
def test_what_says_that_memory_is_short(error):
    assert memory.is_short(error)


def test_what_the_cpus_allocator_says():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert memory.is_short(caught.value)
    with pytest.raises(MemoryError):
        np.empty(2**60, dtype=np.uint8)
    assert not memory.is_short(RuntimeError("shapes differ"))


@pytest.mark.parametrize(
    ("most", "gradients", "tried"),
    [
        (16, True, [(16, False), (8, False), (4, False), (4, True), (2, True), (1, True)]),
        (6, True, [(6, False), (6, True), (3, True), (1, True)]),
        (1, True, [(1, False), (1, True)]),
        (6, False, [(6, False), (3, False), (1, False)]),
    ],
)
def test_batches_shrink_then_activations_are_checkpointed_then_they_shrink_on(most, gradients, tried):
    memory_policy, called, recomputed = MemoryPolicy(), [], []

    def work(size):
        called.append((size, memory_policy.checkpointing))
        raise MemoryError

    with pytest.raises(StageError, match=r"out of memory at micro-batch size 1: it \(MemoryError\)") as caught:
        memory.fit(work, most, memory_policy, (lambda: recomputed.append(1)) if gradients else None, "it")
    assert called == tried
    assert recomputed == [1] * gradients
    assert "--max-new-tokens" in caught.value.remedy


def test_what_was_learned_holds_for_the_next_batch():
    memory_policy, called = MemoryPolicy(), []

    def work(size):
        called.append(size)
        if size > 3:
            raise MemoryError
        return list(memory.slices(range(5), size))

    assert memory.fit(work, 8, memory_policy) == [range(2), range(2, 4), range(4, 5)]
    memory.fit(work, 8, memory_policy)
    memory.fit(work, 1, memory_policy)
    assert called == [8, 4, 2, 2, 1]
    assert memory_policy == MemoryPolicy(2)


def test_another_error_is_not_tried_again_and_the_failed_attempt_is_let_go():
    class Tensors:
        pass

    gone = []

    def work(size):
        if size == 2:
            held = Tensors()
            gone.append(weakref.ref(held))
            raise MemoryError
        assert gone[0]() is None
        raise ValueError("odd")

    with pytest.raises(ValueError, match="odd"):
        memory.fit(work, 2, MemoryPolicy())


# ------------------------------------------------------------------------------------------------- stages of all kinds


def stages(world):
    """Every kind of stage that runs a model over batches: its run, and the numbers that it leaves."""
    lengths = {"max_new_tokens": 6, "precision": "float32", "split": "train", "backend": "transformers"}

    def lines(file):
        return lambda artifact: [json.loads(line) for line in (artifact.path / file).read_text().splitlines()]

    def arrays(artifact):
        return {f.stem: np.load(f) for f in artifact.path.glob("*.npy")}

    def score(metric, **params):
        def run():
            world.inputs.pop("teacher", None)  # a score stage means its responses
            return world.run("score", {}, job={"metric": tiny.named("metric", metric, **params)})

        return run

    def loaded(artifact):
        return json.loads((artifact.path / "values.json").read_text())

    return {
        "generate": (lambda: world.run("generate", lengths), lines("responses.jsonl")),
        "teach": (lambda: world.run("generate", lengths | SAMPLED), lines("responses.jsonl")),
        "reference": (
            lambda: world.run("reference", {"precision": "float32"}),
            lambda a: json.loads((a.path / "logprobs.json").read_text()),
        ),
        "signals": (lambda: world.run("signals", {"text": "reference", "k": 4, "precision": "float32"}), arrays),
        "nll": (score("nll"), loaded),
        "token-ece": (score("token-ece"), loaded),
        "fidelity": (score("fidelity"), loaded),
        "calibration": (score("calibration", samples=4, scorer="rouge-l"), loaded),
        "reward": (score("reward", path=str(world.directory / "judge")), loaded),
        "sft": (lambda: world.train("sft"), tiny.weights),
        "gkd": (lambda: world.train("gkd", max_new_tokens=6, params={"on_policy": 1.0}), tiny.weights),
        "plad": (lambda: world.train("plad"), tiny.weights),
        "distillm": (lambda: world.train("distillm", max_new_tokens=6), tiny.weights),
    }


SAMPLED = {"temperature": 0.7, "top_k": 40, "seed": 3, "samples": 2}
KINDS = [
    "generate",
    "teach",
    "reference",
    "signals",
    "nll",
    "token-ece",
    "fidelity",
    "calibration",
    "reward",
    "sft",
    "gkd",
    "plad",
    "distillm",
]


@pytest.fixture
def world(tmp_path):
    """A world in which every kind of stage can run."""
    made = tiny.World(tmp_path)
    spec = {"split": "train", "precision": "float32", "max_new_tokens": 6}
    world_of_scores = {
        "responses": made.inputs["sample"],
        "checkpoint": made.inputs["model"],
        "teacher_model": made.inputs["teacher"],
    }
    made.inputs |= {
        role: replace(a, manifest={"document": {"stage": role, "spec": spec}}) for role, a in world_of_scores.items()
    }
    config = tiny.llama(3).config
    config.num_labels = 1
    LlamaForSequenceClassification(config).save_pretrained(tmp_path / "judge")
    tiny.tokenizer().save_pretrained(tmp_path / "judge")
    return made


def alike(one, other):
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            alike(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for pair in zip(one, other, strict=True):
            alike(*pair)
    elif isinstance(one, (np.ndarray, torch.Tensor, float)):
        torch.testing.assert_close(torch.as_tensor(other), torch.as_tensor(one), rtol=1e-4, atol=1e-5)
    else:
        assert one == other


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_on_a_small_device_gives_what_it_gives_on_a_large_one(world, monkeypatch, kind):
    run, result = stages(world)[kind]
    whole = run()
    device = Allocator(monkeypatch, room=3)
    small = run()
    assert max(device.tried) > 3  # it began as it always does
    if result is tiny.weights:
        tiny.same_training(tiny.weights(world.inputs["model"]), result(whole), result(small))
    else:
        alike(result(whole), result(small))
    assert small.manifest["counts"] == whole.manifest["counts"]
    cost = [
        {k: v for k, v in a.manifest["cost"].items() if k not in {"peak_memory_bytes", "step_milliseconds"}}
        for a in (whole, small)
    ]
    assert cost[0] == cost[1]
    assert world.last.memory_policy.micro_batch == (1 if kind == "plad" else 3)  # two texts for each pair


@pytest.mark.parametrize("kind", KINDS)
def test_a_stage_for_which_one_sequence_is_too_much_says_so(world, monkeypatch, kind):
    Allocator(monkeypatch, room=0)
    with pytest.raises(StageError, match=r"out of memory at micro-batch size 1.* \(CUDA out of memory"):
        stages(world)[kind][0]()


def test_a_model_that_does_not_fit_says_so(world, monkeypatch):
    monkeypatch.setattr(LlamaForCausalLM, "to", lambda *_: (_ for _ in ()).throw(MemoryError()))
    with pytest.raises(StageError, match="out of memory: loading the model"):
        world.run("reference", {"precision": "float32"})


def test_samples_are_those_of_do_sample():
    model, tokenizer = tiny.llama(1), tiny.tokenizer()
    encoder = models.encoder(model, tokenizer)
    prompts = [tiny.sentence(i, 2 + i % 4) for i in range(5)]
    decoding = generation.Decoding(max_new_tokens=12, temperature=0.7, top_k=40, seed=5)
    made = generation.generate(model, tokenizer, prompts, decoding)
    order = sorted(range(5), key=lambda i: (-len(encoder.prompt(prompts[i])), i))
    ids, mask = generation.padded([encoder.prompt(prompts[i]) for i in order], 2, model.device)
    torch.manual_seed(derive(5, "generate", 0))
    settings = {"do_sample": True, "temperature": 0.7, "top_k": 40, "top_p": 1.0, "max_new_tokens": 12}
    output = model.generate(ids, attention_mask=mask, eos_token_id=1, pad_token_id=2, **settings)
    for i, row in zip(order, output[:, ids.shape[1] :].tolist(), strict=True):
        assert made[i] == generation.response_of(encoder, row, {1})
    assert len({response.ids for response in made}) == 5


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
