"""Losses taken chunk by chunk from hidden states are those of the model's own logits, for every method and head."""

from __future__ import annotations

import copy
import logging
import math
import weakref

import pytest
import tiny
import torch
from heads import Odd, headed, heads
from torch.nn import functional

from plad_bench import PairObjective, TokenObjective
from plad_bench.contract.memory_policy import chunk_of
from plad_bench.learn import chunked_logits
from plad_bench.learn.chunked_logits import CPU_COPIES, Predictions, Predictor, agrees, label_logprobs, parts, summed
from plad_bench.learn.objectives import PairLoss, TokenLoss, sequence_logprobs
from plad_bench.learn.sequences import Batch, Tokens, collate

V = 300
RAGGED = [
    Tokens([0, 5, 6, 7], [8, 9, 1]),
    Tokens([0, 11], [12, 13, 14, 15, 16, 1]),
    Tokens([0, 21, 22, 23, 24, 25, 26], [27, 1]),
    Tokens([0, 31, 32], [33]),
]
METHODS = {name: found[0].component for name, found in tiny.registry().components("method").items()}
TOKEN = [name for name, m in METHODS.items() if isinstance(m.objective, TokenObjective)]
PAIR = [name for name, m in METHODS.items() if isinstance(m.objective, PairObjective)]


def gradients(module):
    return {name: p.grad.clone() for name, p in module.named_parameters() if p.grad is not None}


def own_logits(*predictors, rows):
    """Leave logits to the models, unless so many are asked for at a time."""
    for predictor in predictors:
        if not rows:
            predictor.agreed = False


def token(name, student, teacher, rows=0, precision=None, **params):
    """Summed terms of a token method and the gradient, with so many logits at a time (0: the model's own)."""
    settings = tiny.registry().configure(METHODS[name], params)
    student = copy.deepcopy(student)
    module = TokenLoss(student, teacher, settings, rows=rows)
    own_logits(*filter(None, (module.predictor, module.teacher_predictor)), rows=rows)
    loss = 0.0
    for term in METHODS[name].objective.active(settings):
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            value, report = module(term, collate(RAGGED, 2), 12)
        value.backward()
        loss += value.item()
    return loss, gradients(student), report


def pair(name, student, rows=0):
    student = copy.deepcopy(student).double()
    objective = METHODS[name].objective
    settings = tiny.registry().configure(METHODS[name], {})
    module = PairLoss(student, objective, settings, rows=rows)
    own_logits(module.predictor, rows=rows)
    known = torch.tensor([-30.0, -40.0], dtype=torch.float64)
    scores = {
        "reference_chosen": known,
        "reference_rejected": known - 3,
        "chosen_score": known / 40,
        "rejected_score": known / 50,
    }
    loss, report = module(collate(RAGGED, 2), scores, 2)
    loss.backward()
    return loss.item(), gradients(student), report


def same(one, other, rtol=1e-4, atol=1e-6):
    assert one[0] == pytest.approx(other[0], rel=rtol, abs=atol)
    assert one[1].keys() == other[1].keys()
    for name, value in one[1].items():
        torch.testing.assert_close(other[1][name], value, rtol=rtol, atol=atol)
    assert one[2] == pytest.approx(other[2], rel=1e-3, abs=1e-6)


@pytest.fixture
def bodies(monkeypatch):
    """How often hidden states were asked for: 0 means that nothing was chunked."""
    calls = []
    real = chunked_logits.response_states
    monkeypatch.setattr(chunked_logits, "response_states", lambda *a: (calls.append(1), real(*a))[1])
    return calls


def few_at_a_time(monkeypatch):
    """A loss passes over two rows of a chunk at a time."""
    monkeypatch.setattr(chunked_logits, "CPU_CHUNK", 2 * 4 * V)


@pytest.mark.parametrize(("rows", "few"), [(1, False), (5, False), (5, True), (11, False), (12, True)])
@pytest.mark.parametrize("name", TOKEN)
def test_a_token_loss_does_not_depend_on_the_chunk(name, rows, few, bodies, monkeypatch):
    student, teacher = tiny.llama(1).double(), tiny.llama(2).double()
    dense = token(name, student, teacher)
    assert not bodies
    if few:
        few_at_a_time(monkeypatch)
    same(dense, token(name, student, teacher, rows), rtol=1e-8, atol=1e-11)
    assert bodies


@pytest.mark.parametrize(("rows", "few"), [(1, False), (5, False), (5, True), (12, True)])
@pytest.mark.parametrize("name", PAIR)
def test_a_pair_loss_does_not_depend_on_the_chunk(name, rows, few, bodies, monkeypatch):
    student = tiny.llama(1)
    dense = pair(name, student)
    assert not bodies
    if few:
        few_at_a_time(monkeypatch)
    same(dense, pair(name, student, rows), rtol=1e-8, atol=1e-11)
    assert bodies


def test_chunked_values_and_gradients_are_those_of_a_plain_reference_in_float64():
    student, teacher = tiny.llama(1).double(), tiny.llama(2).double()
    plain = copy.deepcopy(student)
    loss = 0.0
    for s in RAGGED:
        ids, first, n = torch.tensor([s.prompt + s.response]), len(s.prompt) - 1, len(s.response)
        q = plain(input_ids=ids).logits[0, first : first + n].log_softmax(-1)
        p = teacher(input_ids=ids).logits[0, first : first + n].log_softmax(-1).detach()
        loss = loss + (p.exp() * (p - q)).sum() / 12
    loss.backward()
    same((loss.item(), gradients(plain), {}), token("kd", student, teacher, 5, ce_weight=0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["kd", "gkd", "minillm", "dpkd"])
def test_chunks_in_bf16_are_as_close_to_float32_as_dense_bf16_is(name):
    student, teacher = tiny.llama(1), tiny.llama(2)
    exact = token(name, student, teacher)[0]
    got = token(name, student, teacher, 5, precision="bf16")
    dense = token(name, student, teacher, precision="bf16")
    assert got[0] == pytest.approx(dense[0], rel=2e-2)
    assert got[0] == pytest.approx(exact, rel=0.1, abs=0.02)
    for gradient_name, value in dense[1].items():
        assert got[1][gradient_name].dtype == torch.float32
        gap = (got[1][gradient_name] - value).norm() / value.norm().clamp_min(1e-6)
        assert gap < 0.1


@pytest.mark.parametrize(("students", "teachers"), [(300, 320), (320, 300)])
def test_padded_vocabularies_are_cut_in_chunks_too(students, teachers):
    student, teacher = tiny.llama(1, vocabulary=students), tiny.llama(2, vocabulary=teachers)
    same(token("kd", student, teacher), token("kd", student, teacher, 4))


def test_a_model_learns_nothing_from_itself_in_chunks():
    student = tiny.llama(1)
    loss, grads, _ = token("rkl", student, copy.deepcopy(student), 5)
    assert loss == 0
    assert all(float(g.abs().max()) == 0 for g in grads.values())


@pytest.mark.parametrize("kind", heads())
def test_published_heads_are_known(kind, bodies):
    model = headed(kind)
    assert agrees(model, collate(RAGGED, 2))
    bodies.clear()
    teacher = tiny.llama(2)
    same(token("kd", model, teacher), token("kd", model, teacher, 5))
    assert bodies


@pytest.mark.parametrize(
    "change",
    [lambda z: z * 1.01, lambda z: z + (z.detach() * 0.5).tanh(), lambda z: z * 2 - z.detach()],
    ids=["value", "shape", "gradient alone"],
)
def test_a_head_that_is_not_known_is_left_to_the_model_and_that_is_logged_once(change, bodies, caplog):
    model, teacher = tiny.llama(1), tiny.llama(2)
    Odd(model, change)
    assert not agrees(model, collate(RAGGED, 2))
    dense = token("kd", model, teacher)
    bodies.clear()
    predictor = Predictor(model, 5)
    with caplog.at_level(logging.WARNING, logger=chunked_logits.__name__):
        first, second = predictor(collate(RAGGED, 2)), predictor(collate(RAGGED, 2))
    assert len(caplog.records) == 1
    assert "OddLlama" in caplog.text
    assert first.states.shape == second.states.shape == (12, V)
    same(dense, token("kd", model, teacher, 5))


def test_a_model_with_another_interface_is_left_to_itself():
    class Strange(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = tiny.llama(1)
            self.config = self.inner.config

        def forward(self, input_ids, attention_mask, use_cache=False):
            return self.inner(input_ids=input_ids, attention_mask=attention_mask, use_cache=use_cache)

    strange = Strange()
    got = Predictor(strange, 2)(collate(RAGGED, 2))
    torch.testing.assert_close(got.states, chunked_logits.response_logits(strange.inner, collate(RAGGED, 2)))


def test_the_comparison_leaves_dropout_and_random_numbers_alone():
    model = tiny.gpt2(1, dropout=0.5)
    model.train()
    before = torch.get_rng_state()
    assert agrees(model, collate(RAGGED, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(part.training for part in model.modules())
    assert not gradients(model)


def test_few_chunks_where_there_is_room_and_no_more_logits_than_the_budget_allows(monkeypatch):
    model, batch = tiny.llama(1), collate(RAGGED, 2)
    assert Predictor(model)(batch).chunk == 12  # all fit the caches
    some = Predictor(model, 5)(batch)
    assert some.states.shape == (12, 16)
    assert some.chunk == 5
    seen = []

    def count(part, states):
        seen.append((part.start, part.stop))
        return some.head(states).sum()

    summed(count, some, some.chunk)
    assert seen == [(0, 5), (5, 10), (10, 12)]
    for room, chunk in [(20, 12), (11, 11), (1, 1), (0, 1)]:
        monkeypatch.setattr(chunked_logits, "CPU_BUDGET", room * CPU_COPIES * 4 * V)
        assert Predictor(model)(batch).chunk == chunk
    assert [(p.start, p.stop) for p in parts(4, 4)] == [(0, 4)]


def test_no_tensor_over_the_vocabulary_is_larger_than_a_chunk():
    """Seen from torch itself: every tensor that any operation makes, forward and backward."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        rows = 0

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else (out,):
                if isinstance(tensor, torch.Tensor) and tensor.dim() >= 2 and tensor.shape[-1] == V:
                    self.rows = max(self.rows, math.prod(tensor.shape[:-1]))
            return out

    batch = collate(RAGGED, 2)
    student, teacher = tiny.llama(1, tie_word_embeddings=False), tiny.llama(2, tie_word_embeddings=False)
    settings = tiny.registry().configure(METHODS["kd"], {})
    for make in (
        lambda given: TokenLoss(student, teacher, settings, rows=given)(METHODS["kd"].objective.terms[0], batch, 12),
        lambda given: PairLoss(student, METHODS["plad"].objective, _plad(), rows=given)(batch, {}, 2),
    ):
        rows = {}
        for given in (0, 3):
            with Largest() as largest:
                make(given)[0].backward()
            rows[given] = largest.rows
        assert rows[3] <= 16  # the head's own [D, V], D = 16, is no logits
        assert rows[0] >= 12


def _plad():
    return tiny.registry().configure(METHODS["plad"], {})


def test_a_frozen_head_takes_no_gradient_and_passes_it_on():
    model, teacher = tiny.llama(1, tie_word_embeddings=False), tiny.llama(2)
    model.get_output_embeddings().requires_grad_(False)
    dense, chunked = token("kd", model, teacher), token("kd", model, teacher, 5)
    same(dense, chunked)
    assert "lm_head.weight" not in chunked[1]


def test_without_gradients_nothing_is_differentiated(monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    model, batch = tiny.llama(1), collate(RAGGED, 2)
    predictor = Predictor(model, 5)
    predictor.agreed = True
    with torch.no_grad():
        sums, lengths = sequence_logprobs(predictor, batch)
        whole = summed(lambda part, states: predictor(batch).head(states).sum(), predictor(batch), 5)
    assert lengths.tolist() == [3, 6, 2, 1]
    with torch.no_grad():
        logits = chunked_logits.response_logits(model, batch)
    expected = -functional.cross_entropy(logits, batch.labels[:, batch.start :][batch.valid], reduction="sum")
    assert float(sums.sum()) == pytest.approx(float(expected), rel=1e-5)
    assert float(whole) == pytest.approx(float(logits.sum()), rel=1e-3)


def test_what_is_computed_again_for_a_gradient_is_computed_in_the_same_precision():
    head, states, seen = torch.nn.Linear(6, 9), torch.randn(7, 6, requires_grad=True), []

    def logits(part):
        made = head(part)
        seen.append(made.dtype)
        return made

    with torch.autocast("cpu", torch.bfloat16):
        made = chunked_logits.Predictions(states, logits, 3, tuple(head.parameters()))
        found = chunked_logits.label_logprobs(made, torch.arange(7))
    found.sum().backward()
    assert seen == [torch.bfloat16] * 6


def test_a_second_backward_is_refused_and_not_wrong():
    student = tiny.llama(1)
    batch: Batch = collate(RAGGED, 2)
    some = Predictor(student, 5)(batch)
    value = summed(lambda part, states: some.head(states).square().sum(), some, 5) * 3
    value.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        value.backward()


def test_a_chunk_fits_the_caches_of_a_cpu_or_the_memory_of_a_gpu_and_is_as_wide_as_hidden_states():
    assert chunk_of(1000, 4096, 128, 256) == 256  # a CPU: its caches
    assert chunk_of(1000, 4096, 512, 256) == 512  # the width, where it is more
    assert chunk_of(1000, 100, 512, 8) == 100  # but no more than fits
    assert chunk_of(60, 100, 512, 8) == 60
    assert chunk_of(1000, 1200, 64) == 1000  # a GPU: all, where they fit
    assert chunk_of(2000, 1200, 64) == 300
    assert chunk_of(2000, 1200, 512) == 512
    assert chunk_of(2000, 1200, 4096) == 1200
    assert chunk_of(0, 0, 64) == chunk_of(0, 0, 64, 1) == 1


def test_label_log_probabilities_are_the_same_however_many_logits_are_kept():
    torch.manual_seed(0)
    head, labels = torch.nn.Linear(16, V, bias=False), torch.arange(12)
    calls, found = [], []
    for kept_tokens in (12, 7, 0):
        states = torch.randn(12, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
        counted = Predictions(states, lambda x: (calls.append(len(x)), head(x))[1], 5, (head.weight,), kept_tokens)
        values = label_logprobs(counted, labels)
        gradients_ = torch.autograd.grad(values.square().sum(), [states, head.weight])
        found.append((values, *gradients_, len(calls)))
        calls.clear()
    for other in found[1:]:
        for kept, again in zip(found[0][:3], other[:3], strict=True):
            torch.testing.assert_close(kept, again)
    assert [one[3] for one in found] == [3, 5, 6]


def test_gradients_that_share_memory_are_scaled_once():
    states, one, other = torch.ones(4, 2), torch.nn.Parameter(torch.ones(2)), torch.nn.Parameter(torch.ones(2))

    def function(part, some):
        return (some * torch.relu(one + other)).sum()

    assert len({g.data_ptr() for g in torch.autograd.grad(function(slice(0), states), [one, other])}) == 1
    (3 * summed(function, Predictions(states, lambda some: some, 2, (one, other)), 2)).backward()
    assert one.grad.tolist() == other.grad.tolist() == [12.0, 12.0]


def test_a_chunks_gradient_is_gone_when_the_next_is_computed(monkeypatch):
    """Beside the sum there is one of them at most: each is as large as the output head."""
    grad, made, seen = torch.autograd.grad, [], []

    def watched(*args, **more):
        found = grad(*args, **more)
        made.append(weakref.ref(found[1]))
        return found

    def loss(part, states):
        seen.append(sum(one() is not None for one in made[1:]))  # the first may be the sum
        return (states @ weight).square().sum()

    monkeypatch.setattr(torch.autograd, "grad", watched)
    states, weight = torch.randn(8, 3), torch.randn(3, 5, requires_grad=True)
    _, (_, found) = chunked_logits._differentiated(loss, 2, states, [weight])
    assert (seen, len(made)) == ([0] * 4, 4)
    torch.testing.assert_close(found, 2 * states.T @ (states @ weight.detach()))
