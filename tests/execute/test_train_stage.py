"""The train stage: what each method reads of prompts, responses, pairs and the reference model."""

from __future__ import annotations

import math

import pytest
import tiny
import torch
from plain_training import plain_logprobs, reference, same_weights

from plad_bench.contract.errors import StageError
from plad_bench.execute.stages import files
from plad_bench.learn import sequences
from plad_bench.learn.sequences import Encoder


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


def test_all_methods_see_the_same_prompts_in_the_same_order(world, monkeypatch):
    seen: dict[str, list[list[tuple[int, ...]]]] = {}
    real = sequences.collate

    def spy(chosen, pad, device="cpu"):
        if name == "plad":
            assert [s.prompt for s in chosen[: len(chosen) // 2]] == [s.prompt for s in chosen[len(chosen) // 2 :]]
            prompts = chosen[: len(chosen) // 2]
        else:
            prompts = chosen
        seen.setdefault(name, []).append(sorted(tuple(s.prompt) for s in prompts))
        return real(chosen, pad, device)

    monkeypatch.setattr(sequences, "collate", spy)
    for name in ("sft", "seqkd", "kd", "plad"):
        world.train(name, steps=7, batch=4)
    assert len(seen["sft"]) == 7
    assert seen["sft"] == seen["seqkd"] == seen["kd"] == seen["plad"]
    assert seen["sft"][0] != seen["sft"][1]


@pytest.mark.parametrize("role", ["teach", "sample"])
def test_responses_are_joined_by_id(world, role):
    method = {"teach": "seqkd", "sample": "distillm2"}[role]
    before = world.train(method)
    file = world.inputs[role].path / files.RESPONSES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[5:] + lines[:5][::-1]))
    same_weights(before, world.train(method))
    pairs = world.run("pairs", {}, job={"builder": tiny.named("pair builder", "teacher-over-student")})
    assert (pairs.path / files.PAIRS).read_text() == (world.inputs["pairs"].path / files.PAIRS).read_text()


def test_a_shuffled_teacher_is_seqkd_on_the_responses_to_other_prompts(world):
    import json

    shuffled = world.train("shuffled-teacher")
    file = world.inputs["teach"].path / files.RESPONSES
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ids = [row["id"] for row in rows]
    moved = dict(zip(ids, [row["responses"] for row in [*rows[1:], rows[0]]], strict=True))
    assert all(moved[row["id"]] != row["responses"] for row in rows)
    files.write_lines(file, [{"id": id_, "responses": moved[id_]} for id_ in ids])
    same_weights(shuffled, world.train("seqkd"))


@pytest.mark.parametrize("operation", ["train", "pairs"])
def test_a_missing_response_is_named(world, operation):
    file = world.inputs["teach"].path / files.RESPONSES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "example-07" not in line))
    builder, seqkd = tiny.named("pair builder", "teacher-over-student"), tiny.named("method", "seqkd")
    spec = {"steps": 1, "lr": 1e-3, "batch": 2, "seed": 0, "precision": "float32"}
    with pytest.raises(StageError, match="example-07"):
        world.run(operation, spec, job={"builder": builder, "method": seqkd})


def test_the_reference_stage_gives_what_a_live_reference_would(world):
    import json

    facts = json.loads((reference(world).path / files.LOGPROBS).read_text())
    model, encoder = tiny.llama(1), Encoder(tiny.tokenizer(), 128)
    prompts = {p.id: p.prompt for p in files.read_prompts(world.inputs["data"], "train")}
    rows = list(files.read_lines(world.inputs["pairs"].path / files.PAIRS))
    assert len(rows) == len(facts) == 12
    for row, fact in zip(rows, facts, strict=True):
        for side in ("chosen", "rejected"):
            response = encoder.response(files.response_of(row[side]))
            sequence = encoder.sequence(encoder.prompt(prompts[row["id"]]), response)
            assert fact[f"reference_{side}"] == pytest.approx(sum(plain_logprobs(model, sequence)), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_dpo_begins_at_log_2(world, micro_batch):
    world.inputs["reference"] = reference(world)
    first, *_, last = tiny.curve(world.train("dpo", steps=12, lr=1e-2, micro_batch=micro_batch))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["loss"] < first["loss"]


def test_a_pair_step_reports_log_probabilities_accuracy_and_margin(world):
    first = tiny.curve(world.train("plad", steps=1, batch=12))[0]
    model, encoder = tiny.llama(1), Encoder(tiny.tokenizer(), 128)
    prompts = {p.id: p.prompt for p in files.read_prompts(world.inputs["data"], "train")}
    sums = {"chosen": [], "rejected": []}
    for row in files.read_lines(world.inputs["pairs"].path / files.PAIRS):
        for side, values in sums.items():
            response = encoder.response(files.response_of(row[side]))
            values.append(sum(plain_logprobs(model, encoder.sequence(encoder.prompt(prompts[row["id"]]), response))))
    chosen, rejected = (torch.tensor(v) for v in sums.values())
    assert first["logprob_chosen"] == pytest.approx(float(chosen.mean()), rel=1e-4)
    assert first["logprob_rejected"] == pytest.approx(float(rejected.mean()), rel=1e-4)
    assert first["margin"] == pytest.approx(float((chosen - rejected).mean()), rel=1e-3)
    assert first["accuracy"] == pytest.approx(float((chosen > rejected).double().mean()))


def test_a_prompt_without_pair_keeps_its_place_and_trains_nothing(world):
    file = world.inputs["pairs"].path / files.PAIRS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    trained = world.train("plad", steps=4, batch=3)
    per_epoch = sum(
        len(Encoder(tiny.tokenizer(), 128).response(files.response_of(row[side])))
        for row in files.read_lines(file)
        for side in ("chosen", "rejected")
    )
    assert trained.manifest["cost"]["tokens_trained"] == per_epoch
    assert all(math.isfinite(v) for row in tiny.curve(trained) for v in row.values())


def test_different_tokenizers_cannot_be_compared_token_by_token(world):
    other = tiny.tokenizer()
    other.add_tokens(["great house"])
    world.model("teacher", tiny.llama(2, vocabulary=301), other)
    with pytest.raises(StageError, match="different tokenizers"):
        world.train("kd")


def test_uld_runs_where_the_tokenizers_differ(world):
    other = tiny.tokenizer()
    other.add_tokens(["great house", "the"])
    world.model("teacher", tiny.llama(2, vocabulary=302), other)
    trained = world.train("uld", params={"data": "teacher"})
    assert "retokenised_responses" in trained.manifest["counts"]  # by the teacher's tokenizer, which did not make them
    weightless = world.train("uld", params={"data": "teacher", "weight": 0})
    assert tiny.curve(trained)[0]["loss"] > tiny.curve(weightless)[0]["loss"]
    assert tiny.curve(weightless)[0]["loss"] == pytest.approx(tiny.curve(world.train("seqkd"))[0]["loss"], rel=1e-5)


SELECT = {"metric": {}, "max_new_tokens": 8, "points": 4, "prompts": 5}


def teacher(world, values, **more):
    """A fine-tuning of 8 steps whose checkpoints have these values, and its weights after each measured step."""
    from plad_bench.execute.stages import train

    seen, left = [], iter(values)

    def scorer_of(context, named):
        assert named["name"] == "rouge-l"
        return lambda examples: [next(left) for _ in examples[:1]]

    class Watched(train_selection().Selection):
        def after(self, number, *args, **more):
            reported = super().after(number, *args, **more)
            if number + 1 in self.points:
                seen.append({name: value.detach().clone() for name, value in self.model.state_dict().items()})
            return reported

    spec = {"steps": 8, "lr": 1e-2, "batch": 6, "seed": 0, "precision": "float32", "select": SELECT, **more}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "scorer_of", scorer_of)
        patch.setattr(train_selection(), "Selection", Watched)
        job = {"method": tiny.named("method", "sft"), "select": tiny.named("metric", "rouge-l")}
        return world.run("train", spec, job=job), seen


def train_selection():
    from plad_bench.learn import selection

    return selection


@pytest.mark.parametrize(
    ("values", "best"), [([0.1, 0.4, 0.2, 0.3], 1), ([0.1, 0.2, 0.2, 0.9], 3), ([math.nan, 0.0, 0.0, math.nan], 1)]
)
def test_the_best_checkpoint_of_a_teacher_is_kept_and_recorded(world, values, best):
    made, seen = teacher(world, values)
    kept = tiny.weights(made)
    assert all((kept[name] == seen[best][name]).all() for name in kept)
    assert not all((kept[name] == seen[(best + 1) % 4][name]).all() for name in kept)
    told = made.manifest["notes"]["selected"]
    assert (told["metric"], told["step"]) == ("rouge-l", 2 * (best + 1))
    assert list(told["values"].values()) == [None if math.isnan(value) else value for value in values]


def test_a_choice_changes_neither_the_training_nor_the_settings_of_generation(world):
    made, _ = teacher(world, [0.1, 0.2, 0.3, 0.4])
    spec = {"steps": 8, "lr": 1e-2, "batch": 6, "seed": 0, "precision": "float32"}
    plain = world.run("train", spec, job={"method": tiny.named("method", "sft")})
    same_weights(made, plain)
    name = "model/generation_config.json"
    assert (made.path / name).read_text() == (plain.path / name).read_text()


def test_the_best_adapters_are_merged(world):
    first, last = (tiny.weights(teacher(world, values, lora=2)[0]) for values in ([2, 1, 1, 1], [1, 1, 1, 2]))
    assert any((first[name] != last[name]).any() for name in first)
    plain = tiny.weights(teacher(world, [1, 1, 1, 2], lora=2)[0])
    assert all((plain[name] == last[name]).all() for name in last)


def test_greedy_responses_to_validation_prompts_are_scored(world):
    spec = {"steps": 12, "lr": 1e-2, "batch": 6, "seed": 0, "precision": "float32", "select": SELECT}
    job = {"method": tiny.named("method", "sft"), "select": tiny.named("metric", "rouge-l")}
    told = world.run("train", spec, job=job).manifest["notes"]["selected"]
    assert list(told["values"]) == ["3", "6", "9", "12"]
    assert all(0 <= value <= 1 for value in told["values"].values())
    assert told["values"]["12"] > 0
