"""Responses without a token, as of a reasoning model that was cut before its first word, and what trains on them."""

from __future__ import annotations

import math

import pytest
import tiny
import torch

from plad_bench import PairObjective, Response, Scored, StageError, Text, TokenObjective
from plad_bench.contract.jsonlines import read_lines, write_lines
from plad_bench.execute.stages.files import RESPONSES, response_row
from plad_bench.learn.sequences import Tokens
from plad_bench_plugins.metrics.calibration import PreferenceParams, preference_accuracy

METHODS = {name: found[0].component for name, found in tiny.registry().components("method").items()}
PAIRED = [name for name, method in METHODS.items() if isinstance(method.objective, PairObjective)]
ON_TEACHER_TEXT = [
    name
    for name, method in METHODS.items()
    if isinstance(method.objective, TokenObjective) and Text.TEACHER in method.objective.texts(method.params())
]
CUT = response_row(Response(text="", finished=False))


def world(tmp_path, cut):
    """A world in which the first `cut` of twelve responses of the teacher were cut before their first word."""
    made = tiny.World(tmp_path)
    path = made.inputs["teach"].path / RESPONSES
    rows = list(read_lines(path))
    write_lines(path, [{**row, "responses": [CUT]} if i < cut else row for i, row in enumerate(rows)])
    made.inputs["pairs"] = made.run("pairs", {}, job={"builder": tiny.named("pair builder", "teacher-over-student")})
    return made


@pytest.mark.parametrize("method", PAIRED)
def test_a_pair_with_an_empty_side_is_left_out_and_counted(method, tmp_path):
    made = world(tmp_path, 5)
    if METHODS[method].objective.scorer(METHODS[method].params()):
        made.inputs["pairs"] = scored(made)
    if METHODS[method].objective.reference:
        made.inputs["reference"] = made.run("reference", {"precision": "float32"})
    trained = made.train(method)
    assert all(math.isfinite(row["loss"]) for row in tiny.curve(trained))
    assert trained.manifest["counts"]["empty_pairs"] == 5
    assert any(not torch.equal(v, tiny.weights(made.inputs["model"])[k]) for k, v in tiny.weights(trained).items())


def scored(made):
    job = {"builder": tiny.named("pair builder", "teacher-over-student"), "scorer": tiny.named("metric", "rouge-l")}
    return made.run("pairs", {}, job=job)


def test_pairs_that_are_all_empty_are_no_pairs(tmp_path):
    with pytest.raises(StageError, match="each of the 12 pairs has an empty side"):
        world(tmp_path, 12).train("plad")


@pytest.mark.parametrize("method", ON_TEACHER_TEXT)
def test_a_sequence_without_tokens_is_left_out_and_counted(method, tmp_path):
    made = world(tmp_path, 11)  # most steps have no token to train on
    trained = made.train(method, steps=6, batch=3, max_new_tokens=4)
    assert all(math.isfinite(row["loss"]) for row in tiny.curve(trained))
    assert trained.manifest["counts"]["empty_responses"] == 11


def test_signals_and_the_training_that_reads_them_leave_the_same_sequences_out(tmp_path):
    made = world(tmp_path, 4)
    spec = {"text": "teacher", "k": 0, "precision": "float32"}
    made.inputs["signals-teacher"] = made.run("signals", spec)
    trained = made.train("kd", params={"data": "teacher"})
    assert trained.manifest["cost"]["teacher_tokens_cached"] == trained.manifest["cost"]["tokens_trained"]


def test_a_sequence_is_empty_in_either_spelling():
    assert Tokens([1], []).empty
    assert not Tokens([1], [2]).empty
    assert Tokens([1], [2], Tokens([1], [])).empty
    assert not Tokens([1], [2], Tokens([1], [3])).empty


def test_no_metric_compares_the_likelihood_of_no_token():
    class Model:
        def sample(self, prompts, **_):
            return [Response(text="own") for _ in prompts]

        def logprobs(self, texts):
            return [torch.full((len(response.text),), -1.0).double().numpy() for _, response in texts]

    class Given:
        def checkpoint(self):
            return Model()

        def teacher_response(self, example):
            return Response(text=example.teacher, finished=bool(example.teacher))

    examples = [
        Scored(id=text, prompt="p", references=(), meta={}, response="r", teacher=text) for text in ("", "theirs")
    ]
    values = preference_accuracy(examples, PreferenceParams(), Given())
    assert math.isnan(values[0])
    assert values[1] == 0.5
