"""Losses of methods on tiny models, against plain references: what is predicted from what, and how it is averaged."""

from __future__ import annotations

import copy
import math

import pytest
import tiny
import torch
from plain_training import RAGGED, TOKENS, gradients, loss_of, method, plain_logits, plain_logprobs, token_loss
from torch.nn import functional

from plad_bench.contract.errors import StageError
from plad_bench.learn import chunked_logits, objectives
from plad_bench.learn.sequences import Tokens, collate


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_response_token_is_predicted_from_what_stands_before_it(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    with torch.no_grad():
        engine = chunked_logits.response_logits(model, collate(RAGGED, pad=2))
    plain = torch.cat([plain_logits(model, s) for s in RAGGED])
    torch.testing.assert_close(engine.double(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_sequence_log_probabilities_are_over_response_tokens_only(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    with torch.no_grad():
        sums, lengths = objectives.sequence_logprobs(chunked_logits.Predictor(model), collate(RAGGED, pad=2))
    assert sums.tolist() == pytest.approx([sum(plain_logprobs(model, s)) for s in RAGGED], rel=1e-5)
    assert lengths.tolist() == [3, 6, 2, 1]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_token_loss_is_the_mean_over_the_response_tokens_of_the_batch(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    expected = -sum(sum(plain_logprobs(model, s)) for s in RAGGED) / TOKENS
    assert loss_of("sft", model, None, RAGGED) == pytest.approx(expected, rel=1e-5)


def test_a_divergence_is_taken_between_the_two_predictions_of_the_same_token():
    student, teacher = tiny.llama(1), tiny.llama(2)
    expected = 0.0
    for sequence in RAGGED:
        p, q = (plain_logits(m, sequence).log_softmax(-1) for m in (teacher, student))
        expected += float((p.exp() * (p - q)).sum()) / TOKENS
    assert loss_of("kd", student, teacher, RAGGED, ce_weight=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["kd", "rkl", "jsd", "tvd"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_model_learns_nothing_from_itself(architecture, name):
    student = tiny.ARCHITECTURES[architecture]()
    teacher = copy.deepcopy(student)
    loss = token_loss(name, student, teacher, RAGGED, ce_weight=0)
    loss.backward()
    assert loss.item() == 0
    assert gradients(student)
    assert all(float(g.abs().max()) == 0 for g in gradients(student).values())


@pytest.mark.parametrize(("students", "teachers"), [(40, 40), (40, 47), (47, 40)])
def test_padded_vocabularies_are_cut_to_what_both_have(students, teachers):
    student, teacher = tiny.llama(1, vocabulary=students), tiny.llama(2, vocabulary=teachers)
    expected = zero_filled = 0.0
    for sequence in RAGGED:
        z_p, z_q = plain_logits(teacher, sequence), plain_logits(student, sequence)
        p, q = z_p[:, :40].log_softmax(-1), z_q[:, :40].log_softmax(-1)
        expected += float((p.exp() * (p - q)).sum()) / TOKENS
        p, q = (functional.pad(z, (0, 47 - z.shape[-1])).log_softmax(-1) for z in (z_p, z_q))
        zero_filled += float((p.exp() * (p - q)).sum()) / TOKENS
    got = loss_of("kd", student, teacher, RAGGED, ce_weight=0)
    assert got == pytest.approx(expected, rel=1e-5)
    assert abs(zero_filled - expected) > 1e-2


def test_the_teacher_is_frozen_in_eval_mode_and_no_part_of_the_module():
    student, teacher = tiny.gpt2(1, dropout=0.1), tiny.gpt2(2, dropout=0.1)
    record, settings = method("kd")
    module = objectives.TokenLoss(student, teacher, settings)
    module.train()
    assert student.training
    assert not any(part.training for part in teacher.modules())
    mine = {id(p) for p in student.parameters()}
    assert {id(p) for p in module.parameters()} == mine
    assert set(module.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    module(record.objective.terms[0], collate(RAGGED, 2), TOKENS)[0].backward()
    assert not gradients(teacher)
    assert gradients(student)


def test_the_train_stage_leaves_the_teacher_as_it_was(tmp_path, monkeypatch):
    world, seen = tiny.World(tmp_path), []

    class Spy(objectives.TokenLoss):
        def __init__(self, student, teacher, params, **more):
            super().__init__(student, teacher, params, **more)
            seen.append((teacher, {k: v.clone() for k, v in teacher.state_dict().items()}))

    monkeypatch.setattr(objectives, "TokenLoss", Spy)
    world.train("kd")
    ((teacher, before),) = seen
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


SPELLED = [  # as the student spells them, and as the teacher does, with more tokens or with fewer
    Tokens([0, 5, 6], [8, 9, 1], Tokens([0, 7], [3, 4, 5, 6, 1])),
    Tokens([0, 11], [12, 13, 14, 15, 1], Tokens([0, 8, 9, 10], [3, 1])),
]


@pytest.mark.parametrize(("rows", "few"), [(0, False), (3, False), (3, True)])
@pytest.mark.parametrize("vocabularies", [(40, 25), (25, 40)])
def test_uld_sets_each_token_against_the_teachers_of_the_same_place(vocabularies, rows, few, monkeypatch):
    student, teacher = tiny.llama(1, vocabularies[0]).double(), tiny.llama(2, vocabularies[1]).double()
    expected = 0.0
    for sequence in SPELLED:
        q, p = plain_logits(student, sequence).softmax(-1), plain_logits(teacher, sequence.teacher).softmax(-1)
        expected -= sum(math.log(q[i, token]) for i, token in enumerate(sequence.response))
        for i in range(min(len(q), len(p))):
            a, b = (sorted(x[i].tolist() + [0.0] * (40 - x.shape[1])) for x in (q, p))
            expected += 1.5 * sum(abs(u - v) for u, v in zip(a, b, strict=True))
    record, settings = method("uld")
    if few:
        monkeypatch.setattr(chunked_logits, "CPU_CHUNK", 2 * 4 * vocabularies[0])
    module = objectives.TokenLoss(student, teacher, settings, rows=rows)
    loss, _ = module(record.objective.terms[0], collate(SPELLED, 2), 8)
    assert loss.item() == pytest.approx(expected / 8, rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(g).all() for g in gradients(student).values())


def test_a_loss_that_has_averaged_already_is_refused():
    from plad_bench.learn.objectives import expect_shape

    expect_shape(torch.zeros(3), torch.Size([3]), "token")
    with pytest.raises(StageError, match=r"gave shape \[\], not \[3\]\n  Return one value per token"):
        expect_shape(torch.zeros(3).mean(), torch.Size([3]), "token")
