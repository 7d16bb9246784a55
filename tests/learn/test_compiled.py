"""Compiled losses and layers: equal to the originals, or not used."""

from __future__ import annotations

import shutil

import pytest
import torch

from plad_bench.contract.objectives import Term
from plad_bench.learn import compiled
from plad_bench.learn.chunked_logits import Predictor
from plad_bench.learn.divergences import cross_entropy, forward_kl
from plad_bench.learn.models import checkpoint
from plad_bench.learn.objectives import TokenLoss, sequence_logprobs
from plad_bench.learn.sequences import Tokens, collate
from tests import tiny

SEQUENCES = [Tokens([0, 5, 6], [7, 8, 9, 1]), Tokens([0, 7], [9, 1]), Tokens([0, 4, 5, 6], [5, 5, 1])]
TERM = Term(text="teacher", loss=lambda student, teacher, labels, params: forward_kl(student, teacher))


@pytest.fixture
def calls(monkeypatch):
    """What was given to a compiler that changes nothing, and how often the result was called."""
    made = []

    def compile_(function, **_):
        entry = [function, 0]
        made.append(entry)

        def form(*given, **named):
            entry[1] += 1
            return function(*given, **named)

        return form

    monkeypatch.setattr(torch, "compile", compile_)
    return made


def step(model, *, compiles: bool, steps: int = 1, rows: int = 0) -> tuple[float, dict[str, torch.Tensor]]:
    module = TokenLoss(model, tiny.llama(2).eval().requires_grad_(False), object(), rows=rows)
    if compiles:
        module.compile_parts()
    for _ in range(steps):
        model.zero_grad()
        loss, _ = module(TERM, collate(SEQUENCES, 2, "cpu"), 9)
        loss.backward()
    return loss.item(), {name: p.grad.clone() for name, p in model.named_parameters()}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with g++")
def test_a_compiled_step_is_the_step_but_for_rounding(caplog):
    (loss, gradients), (expected, exact) = (step(tiny.llama(1), compiles=c, rows=4) for c in (True, False))
    assert not [r for r in caplog.records if r.name == compiled.__name__]
    assert loss == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(gradients, exact, rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with g++")
@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_layers_in_bf16_are_compiled_too(caplog, weights):
    read = Predictor(tiny.llama(1).to(weights))
    read.compile_parts()
    with torch.autocast("cpu", torch.bfloat16):
        read(collate(SEQUENCES, 2, "cpu"))
    assert read._layers.forms
    assert not [r for r in caplog.records if r.name == compiled.__name__]


@pytest.mark.parametrize(("factor", "used"), [(1.002, True), (1.3, False), (float("nan"), False)])
def test_layers_are_judged_by_what_they_add_to_large_hidden_states(monkeypatch, factor, used):
    model = tiny.llama(1).to(torch.bfloat16)
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 0] = 1000  # hides an error of the rest, if that is measured by the largest

    def compile_(function, **_):
        def form(states, **named):
            return states + factor * (function(states, **named) - states)

        return form

    monkeypatch.setattr(torch, "compile", compile_)
    layers = compiled.CompiledLayers(model)
    with layers.on(lambda: model.model(torch.tensor([[4, 5, 6, 7]]), use_cache=False)):
        assert bool(layers.forms) == used


def test_layers_of_both_models_and_the_loss_are_compiled_once(calls):
    model = tiny.llama(1)
    expected = step(model, compiles=False)
    assert not calls
    torch.testing.assert_close(step(model, compiles=True, steps=3), expected, rtol=0, atol=0)
    layers = len(model.model.layers) + len(tiny.llama(2).model.layers)
    assert len(calls) == layers + 1
    assert all(count == 4 for _, count in calls)  # the comparison, and three steps
    assert not any("forward" in vars(layer) for layer in model.model.layers)


def test_parameters_that_a_schedule_changes_are_not_compiled(calls):
    module = TokenLoss(tiny.llama(1), tiny.llama(2), object())
    module.compile_parts()
    module.params = object()
    assert not isinstance(module._losses(TERM), compiled.CompiledLoss)


def test_recomputed_activations_are_those_of_the_original_layers(calls):
    model = tiny.llama(1)
    read, batch = Predictor(model), collate(SEQUENCES, 2, "cpu")
    read.compile_parts()
    read(batch)
    counts = [count for _, count in calls]
    checkpoint(model)
    read(batch)
    assert [count for _, count in calls] == counts


def test_a_pair_loss_compiles_the_log_probabilities(calls):
    batch = collate([SEQUENCES[0], SEQUENCES[1]], 2, "cpu")
    read = Predictor(tiny.llama(1))
    expected, _ = sequence_logprobs(read, batch)
    read.compile_parts()
    found, _ = sequence_logprobs(read, batch)
    torch.testing.assert_close(found, expected)
    assert calls[-1] == [cross_entropy, 2]


@pytest.mark.parametrize("fault", ["differs", "fails"])
def test_what_is_not_the_same_or_fails_is_not_used(monkeypatch, caplog, fault):
    def compile_(function, **_):
        def form(*given, **named):
            if fault == "fails":
                raise RuntimeError("no compiler\nat all")
            found = function(*given, **named)
            return found + torch.randn_like(found) if isinstance(found, torch.Tensor) else found

        return form

    expected = step(tiny.llama(1), compiles=False)
    monkeypatch.setattr(torch, "compile", compile_)
    torch.testing.assert_close(step(tiny.llama(1), compiles=True, steps=2), expected, rtol=0, atol=0)
    said = "RuntimeError: no compiler\n" if fault == "fails" else "times what rounding explains"
    assert [text.count(said) for text in caplog.text.split("is not compiled: ")[1:]] == [1, 1, 1]
