"""Losses and weights worked out plainly, for tests of training."""

from __future__ import annotations

import copy

import tiny
import torch

from plad_bench.learn import objectives
from plad_bench.learn.sequences import Tokens, collate

RAGGED = [
    Tokens([0, 5, 6, 7], [8, 9, 1]),
    Tokens([0, 11], [12, 13, 14, 15, 16, 1]),
    Tokens([0, 21, 22, 23, 24, 25, 26], [27, 1]),
    Tokens([0, 31, 32], [33]),
]


TOKENS = sum(len(s.response) for s in RAGGED)


def method(name, **params):
    record = tiny.registry().get("method", name)
    return record, tiny.registry().configure(record, params)


def token_loss(name, student, teacher, chosen, total=None, pad=2, **params):
    """The first term of a token method on some sequences."""
    record, settings = method(name, **params)
    module = objectives.TokenLoss(student, teacher, settings)
    return module(record.objective.terms[0], collate(chosen, pad), total or sum(len(s.response) for s in chosen))[0]


def loss_of(*args, **more):
    return token_loss(*args, **more).item()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_logits(model, sequence):
    """The logits that predict each response token: one sequence, no padding, float64, plainly."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        logits = wide(input_ids=torch.tensor([sequence.prompt + sequence.response])).logits[0]
    return torch.stack([logits[len(sequence.prompt) - 1 + i] for i in range(len(sequence.response))])


def plain_logprobs(model, sequence):
    table = plain_logits(model, sequence).log_softmax(-1)
    return [float(table[i, token]) for i, token in enumerate(sequence.response)]


def same_weights(one, other):
    """To the last bit: one machine, and the same batches."""
    torch.testing.assert_close(tiny.weights(one), tiny.weights(other), rtol=0, atol=0)


def reference(world):
    return world.run("reference", {"precision": "float32"}, name="reference")


def start_of(world):
    return tiny.weights(tiny.Artifact(world.inputs["model"].path, {}))
