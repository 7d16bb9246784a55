"""A teacher whose prompts differ from those of the student."""

from __future__ import annotations

import pytest
import tiny
import torch

from plad_bench.contract.examples import Response
from plad_bench.contract.objectives import Sampling
from plad_bench.execute.stages.files import MODEL
from plad_bench.learn import objectives
from plad_bench.learn.evaluation import Evaluated
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.sequences import Encoder, collate
from plad_bench.learn.teacher_cache import TeacherCache

OTHER_TURNS = (
    "{% for m in messages %}{{ m.role }} {{ m.content }}<pad>{% endfor %}{% if add_generation_prompt %}to {% endif %}"
)
"""A turn ends in <pad>, not in </s>."""


@pytest.fixture
def apart(tmp_path):
    """A world whose teacher has a chat template, and whose student has none."""
    world = tiny.World(tmp_path)
    world.model("teacher", tiny.llama(seed=2), tiny.tokenizer(template=OTHER_TURNS))
    return world


def test_the_same_response_after_each_models_own_prompt():
    student, teacher = Encoder(tiny.tokenizer(), 128), Encoder(tiny.tokenizer(template=OTHER_TURNS), 128)
    assert student.hash == teacher.hash
    assert not student.prompts_like(teacher)
    assert student.prompts_like(Encoder(tiny.tokenizer(), 64))
    prompts_, response = (student.prompt("red"), teacher.prompt("red")), student.response(Response(text="a house"))
    both = student.beside(prompts_[0], response, teacher, prompts_[1])
    assert (both.prompt, both.response, both.ends) == (prompts_[0], response, (1, 2))
    assert (both.teacher.prompt, both.teacher.response) == (prompts_[1], [*response[:-1], 2])
    teacher.context = len(prompts_[1]) + 2
    cut = student.beside(prompts_[0], response, teacher, prompts_[1])
    assert cut.response == cut.teacher.response == response[:2]
    assert student.counts == {"truncated_sequences": 1}


def test_a_loss_compares_after_each_models_own_prompt_and_takes_both_ends_for_one():
    student, teacher = Encoder(tiny.tokenizer(), 128), Encoder(tiny.tokenizer(template=OTHER_TURNS), 128)
    response = student.response(Response(text="a house"))
    both = student.beside(student.prompt("red"), response, teacher, teacher.prompt("red"))
    models_ = tiny.llama(1), tiny.llama(2)
    method = tiny.registry().get("method", "kd")
    term, params = method.objective.terms[0], tiny.registry().configure(method, {})
    found, _ = objectives.TokenLoss(*models_, params)(term, collate([both], 2), len(response))
    logits = []
    for model, tokens in zip(models_, (both, both.teacher), strict=True):
        ids = torch.tensor([tokens.prompt + tokens.response])
        logits.append(model(ids).logits[0, len(tokens.prompt) - 1 : -1])
    mine, theirs = logits
    theirs[:, [1, 2]] = theirs[:, [2, 1]]
    expected = objectives.token_losses(term, params, mine, theirs, torch.tensor(response)).mean()
    assert found.item() == pytest.approx(expected.item(), rel=1e-4)


@pytest.mark.parametrize("k", [0, 300])
def test_signals_of_a_teacher_with_its_own_prompts_are_what_it_says_live(apart, k):
    live = apart.train("kd", name="live")
    apart.inputs["signals-reference"] = apart.run("signals", {"text": "reference", "k": k, "precision": "float32"})
    del apart.inputs["teacher"]
    cached = apart.train("kd", name="cached")
    gap = max(
        float((a - b).abs().max()) for a, b in zip(*(tiny.weights(w).values() for w in (live, cached)), strict=True)
    )
    assert gap < 1e-5
    assert apart.last.cost["teacher_tokens_cached"] > 0


def test_events_of_a_teacher_with_its_own_prompts_hold_its_own_end(apart):
    out = apart.run("signals", {"text": "reference", "k": 4, "precision": "float32"}).path
    student, teacher = Encoder(tiny.tokenizer(), 128), Encoder(tiny.tokenizer(template=OTHER_TURNS), 128)
    prompt, reference = tiny.sentence(0, 2), tiny.sentence(50, 3)  # the first of the world
    response = student.response(Response(text=reference))
    both = student.beside(student.prompt(prompt), response, teacher, teacher.prompt(prompt))
    events = TeacherCache(out, student.hash).target([both])
    _, said, places = events.meet(slice(0, len(response)), torch.zeros(len(response), 300), torch.tensor(response))
    given = torch.tensor([both.teacher.prompt + both.teacher.response])
    logits = tiny.llama(seed=2)(given).logits[0, len(both.teacher.prompt) - 1 : -1].log_softmax(-1).detach()
    expected = logits.gather(1, torch.tensor(both.teacher.response)[:, None])
    assert said.gather(1, places[:, None]).numpy() == pytest.approx(expected.numpy(), rel=1e-4)


@pytest.mark.parametrize("method", ["kd", "gkd", "minillm", "skd"])
def test_how_a_teacher_is_given_prompts_changes_what_it_teaches(apart, method):
    own = apart.train(method, name="own", max_new_tokens=6)
    (apart.inputs["teacher"].path / "model" / "chat_template.jinja").unlink()
    plain = apart.train(method, name="plain", max_new_tokens=6)
    assert any((a != b).any() for a, b in zip(*(tiny.weights(w).values() for w in (own, plain)), strict=True))


@pytest.mark.parametrize("sampling", [{"teacher_mix": 0.5}, {"verify_top_k": 3, "draft": 3}])
def test_text_that_both_sample_is_what_each_says_after_its_own_prompt(sampling):
    student, teacher = Encoder(tiny.tokenizer(), 128), Encoder(tiny.tokenizer(template=OTHER_TURNS), 128)
    texts = [tiny.sentence(i, 1 + i) for i in range(4)]
    own = [student.prompt(text) for text in texts]
    its = {tuple(prompt): teacher.prompt(text) for prompt, text in zip(own, texts, strict=True)}
    given = {"max_new_tokens": 8, "seed": 0, "ends": (1, 2)}
    # Its first texts are compared with what either model says of them in one pass; elsewhere it would raise.
    apart_ = Rollouts(tiny.llama(1), tiny.llama(2), student.tokenizer, teacher_prompts=its, **given)
    plain = Rollouts(tiny.llama(1), tiny.llama(2), student.tokenizer, **given)
    made = [of.sample(own, "abcd", 0, Sampling(**sampling)) for of in (apart_, plain)]
    assert made[0] != made[1]


def test_a_teacher_that_verifies_ends_a_text_by_its_own_end():
    teacher = tiny.llama(2)
    with torch.no_grad():  # whatever it reads it says <pad>, its end
        teacher.lm_head.weight.zero_()
        teacher.lm_head.bias = torch.nn.Parameter(torch.nn.functional.one_hot(torch.tensor(2), 300) * 50.0)
    of = Rollouts(
        tiny.llama(1),
        teacher,
        tiny.tokenizer(),
        max_new_tokens=8,
        seed=0,
        teacher_prompts={(3, 4): [7, 8, 9]},
        ends=(1, 2),
    )
    assert of.sample([[3, 4]], ["a"], 0, Sampling(verify_top_k=1)) == [[1]]


def test_a_metric_compares_after_each_models_own_prompt(apart):
    sides = [Evaluated(apart.inputs[role].path / MODEL, "cpu", "float32", 8, {}) for role in ("model", "teacher")]
    texts = [("red", Response(text="a house")), ("old river", Response(text="walk"))]
    ends = sides[0].measure(texts, lambda mine, theirs, labels: theirs.log_softmax(-1)[:, 1:2], sides[1])
    for (prompt, response), found in zip(texts, ends, strict=True):
        said = sides[1].encoder.prompt(prompt) + sides[1].encoder.response(response)
        logits = sides[1].model(torch.tensor([said])).logits[0].log_softmax(-1)
        assert found[:, 0] == pytest.approx(logits[-1 - len(found) : -1, 2].detach().numpy(), rel=1e-4)
