"""A teacher that was allowed to lack responses: what reads them does without, and says so."""

from __future__ import annotations

import json

import pytest
import tiny

from plad_bench.contract.errors import StageError
from plad_bench.execute.stages import files

LACKING = {"example-03", "example-07"}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    made = tiny.World(tmp_path_factory.mktemp("world"))
    strip(made, "teach")
    return made


def strip(world, role, lacking=LACKING):
    """Take the responses to some prompts out of a role."""
    file = world.inputs[role].path / files.RESPONSES
    rows = [{**row, "responses": [] if row["id"] in lacking else row["responses"]} for row in files.read_lines(file)]
    files.write_lines(file, rows)


@pytest.mark.parametrize("method", ["seqkd", "kd"])
def test_training_on_teacher_text_does_without_them(world, method):
    params = {"data": "teacher"} if method == "kd" else {}
    made = world.train(method, params=params, batch=12, steps=2)
    assert len(tiny.curve(made)) == 2
    assert made.manifest["cost"]["tokens_trained"] > 0


def test_a_step_whose_prompts_all_lack_them_trains_nothing(tmp_path):
    other = tiny.World(tmp_path, prompts=2)
    strip(other, "teach", {"example-00"})
    made = other.train("seqkd", batch=1, steps=4)
    assert 0 < len(tiny.curve(made)) < 4, "only steps that train have a loss"


def test_no_pair_is_made_without_a_response(world):
    made = world.run("pairs", {}, job={"builder": tiny.named("pair builder", "teacher-over-student")})
    assert {row["id"] for row in files.read_lines(made.path / files.PAIRS)}.isdisjoint(LACKING)
    assert made.manifest["counts"]["prompts_without_pair"] == len(LACKING)


@pytest.mark.parametrize(("metric", "role"), [("rouge-l", "teach"), ("agreement", "sample"), ("win-teacher", "sample")])
def test_metrics_have_no_value_where_a_response_is_missing(world, tmp_path, metric, role):
    spec = {"split": "train", "max_new_tokens": 8}
    inputs = {"data": world.inputs["data"], "teacher": world.inputs["teach"]}
    inputs["responses"] = tiny.Artifact(world.inputs[role].path, {"document": {"stage": role, "spec": spec}})
    if metric == "rouge-l":
        del inputs["teacher"]
    context = tiny.context(tmp_path, inputs=inputs, job={"metric": tiny.named("metric", metric)})
    from plad_bench.execute.stages import score

    score.run(context)
    values = json.loads((context.out / files.VALUES).read_text())
    assert len(values) == world.prompts
    assert {name for name, value in values.items() if value is None} == LACKING


def test_a_prompt_that_is_not_in_the_file_at_all_is_an_error(world):
    prompts = files.read_prompts(world.inputs["data"], "train")
    extra = files.Prompt(id="unknown", split="train", prompt="x", references=(), meta={})
    with pytest.raises(StageError, match="have no teach response, among them unknown"):
        files.read_responses(world.inputs["teach"], [*prompts, extra])
