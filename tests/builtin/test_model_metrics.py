"""Metrics that need a model, a sample or a regression, against numbers worked out another way."""

from __future__ import annotations

import json
import math
import uuid
from dataclasses import replace

import numpy as np
import pytest
import tiny

from plad_bench import Access, LanguageModel, Metric, Need, Response, Scored, StageError, Tools, UsageError
from plad_bench.execute.stages import files, score
from plad_bench.execute.store import Artifact
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench_plugins.metrics import calibration, diversity, token_ece, win_lc

SPEC = {"split": "train", "max_new_tokens": 6, "precision": "float32"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world"))


def scores(world, metric, inputs=(), **params):
    """values.json of a score stage of the world's sampled responses, in the order of the prompts, and its context."""
    places = {"checkpoint": "model", "teacher_model": "teacher", "teacher": "teach"}
    place = world.inputs
    responses = Artifact(place["sample"].path, {"document": {"stage": "generate", "spec": SPEC}})
    given = {"data": place["data"], "responses": responses, **{role: place[places[role]] for role in inputs}}
    job = {"metric": tiny.named("metric", metric, **params)}
    made = tiny.context(world.directory, name=f"score-{uuid.uuid4()}", inputs=given, job=job)
    score.run(made)
    values = json.loads((made.out / files.VALUES).read_text())
    return [math.nan if v is None else v for v in values.values()], made


def prompts_of(world):
    return files.read_prompts(world.inputs["data"], "train")


def logits_of(world, role, prompt, text):
    """Logits and labels at the tokens of a text and its end token, one text at a time and nothing padded."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = world.inputs[role].path / files.MODEL
    model, tokenizer = AutoModelForCausalLM.from_pretrained(path).eval(), AutoTokenizer.from_pretrained(path)
    first = tokenizer(prompt + "\n")["input_ids"]
    first = first[:-1] if first[-1] == tokenizer.eos_token_id else first
    then = [*tokenizer(text, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
    with torch.no_grad():
        logits = model(torch.tensor([first + then])).logits[0]
    return logits[len(first) - 1 : -1].double(), torch.tensor(then)


# ------------------------------------------------------------------------------------------------- on the references


def test_nll_is_the_surprise_of_all_references_per_token(world):
    values, _ = scores(world, "nll", ["checkpoint"])
    by_byte, _ = scores(world, "nll", ["checkpoint"], per="byte")
    assert len(values) == world.prompts
    for prompt, value, other in list(zip(prompts_of(world), values, by_byte, strict=True))[:3]:
        pairs = [logits_of(world, "model", prompt.prompt, text) for text in prompt.references]
        surprise = -sum(float(z.log_softmax(-1)[range(len(y)), y].sum()) for z, y in pairs)
        assert value == pytest.approx(surprise / sum(len(y) for _, y in pairs), rel=1e-4)
        assert other == pytest.approx(surprise / sum(len(text.encode()) for text in prompt.references), rel=1e-4)


def test_fidelity_is_the_divergence_of_teacher_and_student(world):
    kl, _ = scores(world, "fidelity", ["checkpoint", "teacher_model"])
    same, _ = scores(world, "fidelity-top1", ["checkpoint", "teacher_model"])
    for prompt, value, share in list(zip(prompts_of(world), kl, same, strict=True))[:3]:
        divergences, hits = [], []
        for text in prompt.references:
            q, _ = logits_of(world, "model", prompt.prompt, text)
            p, _ = logits_of(world, "teacher", prompt.prompt, text)
            divergences += (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1).tolist()
            hits += (p.argmax(-1) == q.argmax(-1)).tolist()
        assert value == pytest.approx(np.mean(divergences), rel=1e-4)
        assert share == pytest.approx(np.mean(hits))


def test_a_teacher_is_faithful_to_itself(world):
    world.inputs["model"], kept = world.inputs["teacher"], world.inputs["model"]
    try:
        assert scores(world, "fidelity", ["checkpoint", "teacher_model"])[0] == [0.0] * world.prompts
    finally:
        world.inputs["model"] = kept


def test_tokenizers_that_differ_leave_the_metric_out_with_the_reason(world, tmp_path):
    other = tiny.World(tmp_path, prompts=3)
    retrained = tiny.tokenizer().train_new_from_iterator(["quite other words"] * 3, 280)
    other.model("teacher", tiny.llama(vocabulary=len(retrained)), retrained)
    values, stage = scores(other, "fidelity", ["checkpoint", "teacher_model"])
    assert all(map(math.isnan, values))
    assert "different tokenizers" in stage.notes["absent"]


def test_token_ece_is_that_of_the_pooled_tokens(world):
    values, _ = scores(world, "token-ece", ["checkpoint"], bins=5)
    confidence, correct = [], []
    for prompt in prompts_of(world):
        for text in prompt.references:
            logits, labels = logits_of(world, "model", prompt.prompt, text)
            top = logits.softmax(-1).max(-1)
            confidence += top.values.tolist()
            correct += (top.indices == labels).tolist()
    confidence, correct = np.array(confidence), np.array(correct, dtype=float)
    ece = 0.0
    for b in range(5):
        inside = (confidence >= b / 5) & ((confidence < (b + 1) / 5) | (b == 4))
        if inside.any():
            ece += inside.mean() * abs(correct[inside].mean() - confidence[inside].mean())
    assert np.mean(values) == pytest.approx(ece, rel=1e-4)


def test_ece_of_perfect_and_of_certain_predictions():
    perfect = np.column_stack([np.full(10, 0.5), [0.0, 1.0] * 5])
    assert token_ece.shares([perfect], 10) == [pytest.approx(0)]
    wrong = np.column_stack([np.ones(4), np.zeros(4)])
    assert np.nanmean(token_ece.shares([wrong, perfect, perfect[:0]], 10)) == pytest.approx(4 / 14)


# --------------------------------------------------------------------------------------------------- on own samples


class Fake(LanguageModel, Tools):
    """A model that says what it is told to say and finds texts as likely as it is told, and the tools to reach it."""

    def __init__(self, samples, likelihoods, teacher=None):
        self.samples, self.likelihoods, self.teachers = samples, likelihoods, teacher or {}

    def checkpoint(self):
        return self

    def sample(self, prompts, *, temperature, top_k=0, seed=0):
        queue = {prompt: iter(texts) for prompt, texts in self.samples.items()}
        return [Response(text=next(queue[prompt])) for prompt in prompts]

    def logprobs(self, texts):
        return [np.full(len(y.text.split()), self.likelihoods[y.text]) for _, y in texts]

    def teacher_response(self, example):
        return Response(text=self.teachers[example.prompt])

    def __call__(self, selector):
        assert selector == "rouge-l"
        quality = {"good": 1.0, "fair": 0.5, "bad": 0.0}
        return lambda examples: [quality.get(e.response.split()[0], math.nan) for e in examples]


def example(prompt, **more):
    return Scored(id=prompt, prompt=prompt, references=(), meta={}, **{"response": "", **more})


def test_calibration_by_hand():
    likelihoods = {"good": -1.0, "fair": -2.0, "bad": -3.0, "good 2": -4.0, "odd": -9.0}
    samples = {
        "right": ["good", "fair", "bad", "bad"],
        "wrong": ["good 2", "bad", "good 2", "bad"],
        "mixed": ["good 2", "fair", "bad", "odd"],
        "one text": ["good"] * 4,
        "alike": ["good", "good 2", "good", "good 2"],
    }
    fake = Fake(samples, likelihoods)
    examples = [example(prompt) for prompt in samples]
    values = calibration.calibration(examples, calibration.CalibrationParams(samples=4), fake)
    # mixed: (-4, 1), (-2, .5), (-3, 0): of three pairs one agrees; the sample without a quality is left out
    assert values[:3] == [pytest.approx(1), pytest.approx(-1), pytest.approx(-1 / 3)]
    assert all(map(math.isnan, values[3:]))
    spearman = calibration.CalibrationParams(samples=4, rank="spearman")
    assert calibration.calibration(examples, spearman, fake)[2] == pytest.approx(-0.5)


@pytest.mark.parametrize(("logprob", "expected"), [("mean", [1.0, 0.0, 0.5]), ("sum", [0.0, 0.0, 1.0])])
def test_preference_accuracy_by_hand(logprob, expected):
    likelihoods = {"one": -1.0, "a b c": -0.5, "long long": -2.0, "two": -1.0, "tie": -2.0}
    teachers = {"longer": "a b c", "worse": "long long", "tied": "tie", "same": "one"}
    samples = {"longer": ["one"], "worse": ["two"], "tied": ["long long"], "same": ["one"]}
    params = calibration.PreferenceParams(logprob=logprob)
    values = calibration.preference_accuracy(
        [example(p) for p in samples], params, Fake(samples, likelihoods, teachers)
    )
    assert values[:3] == expected
    assert math.isnan(values[3])


def test_a_model_samples_the_same_again_and_reads_its_own_ids(world):
    first, _ = scores(world, "preference-accuracy", ["checkpoint", "teacher"])
    again, stage = scores(world, "preference-accuracy", ["checkpoint", "teacher"])
    assert first == again
    assert set(first) <= {0.0, 0.5, 1.0}
    assert "retokenised_responses" not in stage.counts


def test_a_metric_gets_only_what_it_declares(world):
    with pytest.raises(StageError, match="used checkpoint") as caught:
        scores(world, "nll")
    assert caught.value.remedy == "Declare it in the metric's needs."


# -------------------------------------------------------------------------------------------------------- diversity


def test_diversity_by_hand():
    texts = ["a b a b", "The cat sat on the mat", "the cat sat on a hat", "x"]
    examples = [example(str(i), response=text) for i, text in enumerate(texts)]
    assert diversity.distinct(examples, diversity.DistinctParams(n=2), None)[:3] == [pytest.approx(2 / 3), 1, 1]
    repeated = diversity.self_repetition(examples, diversity.RepetitionParams(), None)
    assert repeated[:3] == [0, pytest.approx(1 / 3), pytest.approx(1 / 3)]
    assert math.isnan(repeated[3])


# --------------------------------------------------------------------------------------------------- length control


def judged(bias, skill, examples=4000, seed=0):
    """Wins by a judge that likes length, of a student whose texts are longer than its opponent's by 10 +- 15 words."""
    random = np.random.default_rng(seed)
    difference = random.normal(10, 15, examples).round()
    chance = 1 / (1 + np.exp(-(skill + bias * np.tanh(difference / difference.std()))))
    return (random.random(examples) < chance).astype(float), difference


def test_a_judge_that_likes_length_is_corrected():
    wins, difference = judged(bias=3.0, skill=0.0)
    assert wins.mean() > 0.65
    assert win_lc.controlled(wins, difference).mean() == pytest.approx(0.5, abs=0.03)
    wins, difference = judged(bias=-3.0, skill=1.0)
    assert win_lc.controlled(wins, difference).mean() == pytest.approx(1 / (1 + math.exp(-1)), abs=0.03)


def test_a_judge_without_bias_is_left_alone():
    wins, difference = judged(bias=0.0, skill=0.5)
    assert win_lc.controlled(wins, difference).mean() == pytest.approx(wins.mean(), abs=0.01)
    assert win_lc.controlled(wins, np.zeros(len(wins))) == pytest.approx(wins, abs=1e-6)


def test_length_control_of_few_odd_and_missing_wins():
    nan = math.nan
    values = win_lc.controlled(np.array([1.0, nan, 1.0]), np.array([3.0, 1.0, -2.0]))
    assert values[[0, 2]] == pytest.approx([1, 1])
    assert math.isnan(values[1])
    assert np.isnan(win_lc.controlled(np.array([nan, nan]), np.zeros(2))).all()
    decided_by_length = win_lc.controlled(np.array([1.0, 1.0, 0.0, 0.0]), np.array([5.0, 7.0, -5.0, -7.0]))
    assert np.isfinite(decided_by_length).all()
    assert decided_by_length.mean() == pytest.approx(0.5, abs=1e-6)


# --------------------------------------------------------------------------------------------------------- planning


def planned(metrics, **asked):
    usual = {"task": "demo", "methods": "seqkd", **asked}
    run = spec.build(tiny.registry(), metrics=metrics, **usual)
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_needs_become_inputs_of_the_score_stage():
    cell = planned("rouge-l,win-teacher,nll,fidelity,preference-accuracy,win-lc[scorer=agreement]")["seqkd"]
    inputs = {name: set(stage.inputs) - {"data", "responses"} for name, stage in cell.scores.items()}
    assert inputs == {
        "rouge-l": set(),
        "win-teacher": {"teacher"},
        "nll": {"checkpoint"},
        "fidelity": {"checkpoint", "teacher_model"},
        "preference-accuracy": {"checkpoint", "teacher"},
        "win-lc[scorer=agreement]": {"teacher", "scores"},
    }
    assert cell.scores["nll"].inputs["checkpoint"].key == cell.checkpoint.key
    (agreement,) = choose(tiny.registry(), "metric", "agreement")
    alone = cell.plan.score(agreement, cell.checkpoint, cell.responses)
    assert cell.scores["win-lc[scorer=agreement]"].inputs["scores"].key == alone.key


def test_a_metric_needs_what_its_scorer_needs():
    cell = planned("calibration[scorer=win-teacher]")["seqkd"]
    assert set(cell.scores["calibration[scorer=win-teacher]"].inputs) == {"data", "responses", "checkpoint", "teacher"}


def test_a_teacher_of_text_costs_the_metric_and_not_the_cell(monkeypatch):
    (teacher,) = choose(tiny.registry(), "teacher", "small")
    component = replace(teacher.component, provides=frozenset({Access.TEXT}))
    mute = replace(teacher, registered=replace(teacher.registered, component=component))
    monkeypatch.setattr(matrix, "_default_teacher", lambda student, registry: (mute,))
    cells = planned("rouge-l,fidelity,nll")
    reason = "fidelity needs the teacher's logits; small provides text"
    assert (set(cells["seqkd"].scores), cells["seqkd"].absent) == ({"rouge-l", "nll"}, {"fidelity": reason})
    assert set(cells["teacher"].absent) == {"fidelity", "nll"}
    assert not cells["seqkd"].skip
    assert planned("fidelity")["seqkd"].skip == reason


def test_two_vocabularies_cost_the_metric():
    cell = planned("rouge-l,fidelity", student="scratch[vocabulary=300]")["seqkd"]
    assert "fidelity compares logits token by token, but the student's tokenizer has 300" in cell.absent["fidelity"]


def test_a_need_that_does_not_exist_is_a_broken_record():
    with pytest.raises(ValueError, match=r"odd has unknown needs logits; known: teacher, checkpoint, .*references"):
        Metric(name="odd", summary="", better=None, needs=frozenset({"logits", Need.TEACHER}), score=lambda e, p, t: [])


@pytest.mark.parametrize("name", ["nll", "win-teacher"])
def test_a_scorer_of_pairs_reads_text(name):
    """And not the teacher's: it is one of those that are scored."""
    row = f"plad[loss=margin,scorer={name}]"
    with pytest.raises(UsageError, match=f"{name} cannot score training pairs"):
        _ = planned("rouge-l", methods=row)[row].scores


def test_every_metric_declares_how_to_read_it():
    for found in tiny.registry().components("metric").values():
        for metric in (r.component for r in found):
            assert metric.formula, metric.name
            assert metric.cost, metric.name


# --------------------------------------------------------------------------------------------------------- the page


def test_a_page_says_what_was_not_measured_and_why(tmp_path):
    import synthetic

    from plad_bench.leaderboard.board import Absent
    from plad_bench.leaderboard.loading import load
    from plad_bench.render.write import render_board

    for method in ("kd", "seqkd"):
        for seed in range(2):
            columns = {"m": (np.random.default_rng(seed).normal(0, 1, 9), "higher", "")}
            absent = {"fidelity": "the teacher provides <b>text</b>"} if method == "kd" else {}
            synthetic.put(tmp_path / "b", *synthetic.record(method, seed, columns=columns, absent=absent))
    (tmp_path / "b" / "board.toml").write_text("")
    (group,) = load(tmp_path / "b").groups
    assert group.absent == (Absent("fidelity", "the teacher provides <b>text</b>", ("kd",)),)
    page = render_board(tmp_path / "b", ())[tmp_path / "b" / "README.md"].decode()
    _, _, said = page.partition("## Metrics not measured")
    assert "`fidelity`" in said
    assert "<b>" not in said
