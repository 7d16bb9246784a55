"""Generation with vLLM: what transformers says, token by token. The first part needs no vLLM."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import launching
import numpy as np
import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plad_bench import LaunchOptions
from plad_bench.contract.errors import MissingError, StageError
from plad_bench.execute import recording
from plad_bench.execute.stages import generate, teacher_logprobs
from plad_bench.execute.stages.files import Prompt, read_lines, response_of, response_row, write_prompts
from plad_bench.execute.store import Artifact
from plad_bench.learn import models, vllm_engine, vllm_process
from plad_bench.learn.sequences import Encoder, Tokens
from plad_bench.learn.teacher_cache import TeacherCache, of_events
from plad_bench.plan import backends, compatibility, matrix, requirements, spec
from plad_bench.plan.spec import protocol_values
from plad_bench.plan.stage import TEACHER, Stage
from plad_bench_plugins.checks import backends as checks
from plad_bench_plugins.launchers import local

STAND_IN = Path(__file__).parents[1] / "engines"
needs_vllm = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")]


def cells(**more):
    run = spec.build(tiny.registry(), task="demo", methods="seqkd,kd", **more)
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def backend_of(found):
    return {(s.name, s.spec["backend"]) for c in found.values() for s in c.stages if s.operation == "generate"}


def test_the_backend_is_keyed_and_said_only_where_it_is_not_the_usual_one():
    usual, other = cells(), cells(overrides={"demo": {"backend": "vllm"}})
    assert backend_of(usual) == {("teach", "transformers"), ("generate", "transformers")}
    assert backend_of(other) == {("teach", "vllm"), ("generate", "vllm")}
    assert usual["seqkd"].plan.sft_init.key == other["seqkd"].plan.sft_init.key
    assert "backend" not in protocol_values(usual["seqkd"].protocol)
    assert protocol_values(other["seqkd"].protocol)["backend"] == "vllm"


def test_a_vllm_teacher_gives_text_that_vllm_generates(tmp_path):
    found = cells(teacher=f"vllm[path={tmp_path}]")
    assert found["teacher"].responses.spec["backend"] == found["seqkd"].plan.teach.spec["backend"] == "vllm"
    assert found["student"].responses.spec["backend"] == "transformers"
    assert "provides top-k" in found["kd"].skip


def signalled(methods, **more):
    """The cells of methods with a vllm teacher, by row, whose signals are of the 8 likeliest tokens."""
    place = {"student": f"hf[path={STAND_IN}]", "teacher": f"vllm[path={Path(__file__).parents[1]}]"}
    run = spec.build(
        tiny.registry(), task="demo", methods=methods, overrides={"demo": {"teacher_logprobs": "top-8"}}, **place
    )
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_top_k_signals_let_a_vllm_teacher_serve_methods_on_fixed_text():
    found = signalled("kd,kd[data=teacher],akl,tvd,opd,distillm,gkd,uld")
    reasons = {row: cell.skip for row, cell in found.items()}
    assert [row for row, reason in reasons.items() if not reason][3:] == ["kd", "kd[data=teacher]", "akl"]
    teacher = "vllm[steps=500,lr=0.0001,lora=16,select=best,path=tests-"
    assert reasons["opd"].startswith(f"opd needs the teacher's logits; {teacher}")
    assert reasons["opd"].endswith("provides top-k")  # it asks the teacher of what the student writes


def test_a_record_says_what_was_asked_of_the_teacher(tmp_path):
    def access(found):
        return {
            row: recording.write_undone(tmp_path, c, None, []).method.access for row, c in found.items() if c.method
        }

    assert access(signalled("kd,seqkd,opd")) == {"kd": "top-k", "seqkd": "text", "opd": "token log-probs"}
    assert access(cells()) == {"kd": "logits", "seqkd": "text"}


def test_no_stage_of_a_vllm_teacher_loads_it_elsewhere():
    (kd,) = (c for c in signalled("kd").values() if c.row == "kd")
    readers = [s for s in kd.stages if kd.plan.teacher_model in s.inputs.values()]
    assert {s.name for s in readers} == {"generate", "signals-reference"}
    assert {s.spec["backend"] for s in readers} == {"vllm"}


def test_what_top_k_would_let_run_says_so():
    place = f"path={Path(__file__).parents[1]}"
    for signals_, hint in (("live", True), ("dense", True)):
        found = cells(
            student=f"hf[{place}]", teacher=f"vllm[{place}]", overrides={"demo": {"teacher_logprobs": signals_}}
        )
        assert found["kd"].skip.endswith("(--teacher-logprobs top-64 works with top-k log-probabilities)") is hint


def test_signals_of_other_teachers_have_the_key_they_had():
    found = cells(overrides={"demo": {"teacher_logprobs": "top-8", "backend": "vllm"}})
    (made,) = (s for s in found["kd"].stages if s.operation == "signals")
    assert "backend" not in made.spec


def test_a_model_that_vllm_cannot_run_is_known_before_any_work(monkeypatch, tmp_path):
    monkeypatch.setattr(backends, "_for_cpus", lambda: True)
    found = cells(overrides={"demo": {"backend": "vllm"}})
    assert compatibility.not_for_vllm(found["teacher"]) == ""  # heads of 32
    assert compatibility.not_for_vllm(found["seqkd"]).startswith(
        "the model from scratch has attention heads of size 16;"
    )
    assert matrix.reconsidered([found["seqkd"]], lambda key: None)[0].skip == compatibility.not_for_vllm(found["seqkd"])
    assert compatibility.not_for_vllm(cells()["seqkd"]) == ""
    told = {"model_type": "x", "hidden_size": 64, "num_attention_heads": 4}
    for more, reason in (
        ({}, "has attention heads of size 16"),
        ({"head_dim": 128}, ""),
        ({"is_encoder_decoder": True, "head_dim": 128}, "does not support the encoder-decoder"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(told | more))
        assert reason in compatibility.not_for_vllm(cells(teacher=f"vllm[path={tmp_path}]")["teacher"])
    monkeypatch.setattr(backends, "_for_cpus", lambda: False)
    assert compatibility.not_for_vllm(found["seqkd"]) == ""


def test_auto_takes_vllm_where_it_can_run(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    assert backends.best(gpu=True) == "transformers"
    monkeypatch.setattr(backends, "find_spec", lambda name: "there")
    monkeypatch.setattr(backends, "_for_cpus", lambda: False)
    assert [backends.best(gpu=gpu) for gpu in (True, False)] == ["vllm", "transformers"]
    monkeypatch.setattr(backends, "_for_cpus", lambda: True)
    assert backends.best(gpu=False) == "vllm"


def test_without_vllm_nothing_begins(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    found = cells(overrides={"demo": {"backend": "vllm"}}).values()
    with pytest.raises(MissingError, match="is not installed"):
        requirements.check(found)
    requirements.check(found, made=lambda key: True)


def test_an_engine_that_ends_without_an_answer_fails_the_stage(monkeypatch, tmp_path):
    monkeypatch.setattr(vllm_engine.sys, "executable", "/bin/false")
    with pytest.raises(StageError, match="vLLM failed: its process ended with code 1"):
        vllm_engine._run(tmp_path, {})


@pytest.mark.parametrize("k", [1, 3, 12])
def test_events_are_made_of_the_likeliest_tokens_and_the_label(k):
    torch.manual_seed(0)
    logprobs = (3 * torch.randn(50, 12)).log_softmax(-1)
    labels = torch.randint(12, (50,))
    found = []
    for row, label in zip(logprobs, labels, strict=True):
        kept = {*row.topk(k).indices.tolist(), int(label)}
        found.append({t: SimpleNamespace(logprob=float(row[t]), rank=1 + int((row > row[t]).sum())) for t in kept})
    ids, made = vllm_process.events(found, labels.tolist(), k, whole=k == 12)
    likeliest = logprobs.topk(k).indices
    expected = of_events(logprobs, likeliest, labels)
    np.testing.assert_array_equal(ids, likeliest)
    np.testing.assert_allclose(np.exp(made), expected.exp(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(made[:, :-1], expected[:, :-1])


def test_a_tail_below_rounding_is_small_and_not_nothing():
    sure = [{5: SimpleNamespace(logprob=0.0, rank=1)}]
    assert vllm_process.events(sure, [5], 1, whole=False)[1][0, 2] == pytest.approx(np.log(1.2e-7), abs=0.1)
    assert vllm_process.events(sure, [5], 1, whole=True)[1][0, 2] < -1e38


# ---------------------------------------------------------------------------------------------------- with an engine


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A model of random weights that vLLM can run, and prompts of several lengths."""
    directory = tmp_path_factory.mktemp("world")
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=300, max_position_embeddings=256, initializer_range=0.3, eos_token_id=1, **sizes)
    LlamaForCausalLM(config).save_pretrained(directory / "model")
    tiny.tokenizer().save_pretrained(directory / "model")
    prompts = [
        Prompt(
            id=f"id{i:02}",
            split="train",
            prompt=tiny.sentence(i, 3 + i),
            references=(tiny.sentence(i + 50, 1 + i % 4),),
            meta={},
        )
        for i in range(12)
    ]
    write_prompts(directory, prompts, ["train"])
    manifest = {"key": "k", "document": {"stage": "data"}}
    return directory, {"data": Artifact(directory, manifest), "model": Artifact(directory, manifest)}


def made(world, tmp_path, backend, **sampling):
    _, inputs = world
    given = {
        "split": "train",
        "max_new_tokens": 24,
        "precision": "float32",
        "threads": 1,
        "backend": backend,
        **sampling,
    }
    context = tiny.context(tmp_path, name=backend, spec=given, inputs=inputs)
    generate.run(context)
    return [row["responses"] for row in read_lines(context.out / "responses.jsonl")], context


@pytest.mark.parametrize("marked", [pytest.param(None, marks=needs_vllm)])
def test_greedy_text_is_that_of_transformers(world, tmp_path, marked):
    theirs, context = made(world, tmp_path, "vllm")
    ours, _ = made(world, tmp_path, "transformers")
    assert theirs == ours
    assert len({tuple(r[0]["ids"]) for r in ours}) > 6
    assert context.cost["tokens_generated"] > 100
    assert context.cost["peak_memory_bytes"] > 1e8


@pytest.mark.parametrize("marked", [pytest.param(None, marks=needs_vllm)])
def test_samples_differ_and_can_be_drawn_again(world, tmp_path, marked):
    sampling = {"temperature": 1.0, "top_k": 20, "seed": 3, "samples": 2}
    first, _ = made(world, tmp_path / "a", "vllm", **sampling)
    again, _ = made(world, tmp_path / "b", "vllm", **sampling)
    assert first == again
    assert all(len(r) == 2 and r[0]["ids"] != r[1]["ids"] for r in first)


@pytest.mark.parametrize("marked", [pytest.param(None, marks=needs_vllm)])
def test_a_model_that_it_cannot_run_is_a_failed_stage_with_its_reason(world, tmp_path, marked):
    _, inputs = world
    tiny.llama().save_pretrained(tmp_path / "model")
    tiny.tokenizer().save_pretrained(tmp_path / "model")
    odd = {**inputs, "model": Artifact(tmp_path, {"key": "k"})}
    with pytest.raises(StageError, match="vLLM failed: ") as caught:
        made((tmp_path, odd), tmp_path, "vllm")
    assert "--backend transformers" in caught.value.remedy


@pytest.mark.parametrize("marked", [pytest.param(None, marks=needs_vllm)])
def test_doctor_finds_that_both_backends_generate_the_same(marked):
    (finding,) = checks.backends()
    assert (finding.level, "16 equal greedy texts" in finding.message) == ("ok", True), finding


@pytest.mark.slow
@pytest.mark.parametrize(
    ("engine", "k"), [("stand-in", 20), ("stand-in", 300), pytest.param("vllm", 20, marks=needs_vllm)]
)
def test_signals_of_the_engine_are_those_of_the_loaded_model(world, tmp_path, monkeypatch, engine, k):
    if engine == "stand-in":
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    _, inputs = world
    given = {"text": "reference", "k": k, "precision": "float32", "threads": 1}
    made = []
    for more in ({"backend": "vllm"}, {}):
        inputs = {"data": inputs["data"], "teacher": world[1]["model"]}
        made.append(tiny.context(tmp_path, name=f"to-{len(made)}", spec=given | more, inputs=inputs))
        teacher_logprobs.run(made[-1])
        assert not list(made[-1].partial.iterdir())
    tokenizer = Encoder(tiny.tokenizer(), 256).hash
    theirs, ours = (TeacherCache(context.out, tokenizer) for context in made)
    assert made[0].cost["teacher_tokens_scored"] == made[1].cost["teacher_tokens_scored"] > 20
    assert made[0].cost["peak_memory_bytes"] > 1e8
    assert theirs.offsets == ours.offsets
    if k < 300:  # else the order of the very unlikely ones is a matter of rounding
        np.testing.assert_array_equal(theirs.ids, ours.ids)
    np.testing.assert_allclose(np.exp(theirs.values), np.exp(ours.values), rtol=1e-4, atol=2e-6)
    np.testing.assert_allclose(theirs.values[:, :-1], ours.values[:, :-1], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["stand-in", pytest.param("vllm", marks=needs_vllm)])
def test_a_teachers_responses_keep_their_log_probabilities(world, tmp_path, monkeypatch, engine):
    if engine == "stand-in":
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    rows, _ = made(world, tmp_path, "vllm", logprobs=True)
    plain, _ = made(world, tmp_path, "transformers")
    model, tokenizer = models.load(world[0] / "model", "cpu", "float32")
    encoder, end = Encoder(tokenizer, 256), tokenizer.eos_token_id
    for number, (row, other) in enumerate(zip(rows, plain, strict=True)):
        response = response_of(row[0])
        assert response_row(replace(response, logprobs=None)) == other[0]
        prompt = encoder.prompt(tiny.sentence(number, 3 + number))
        said = [*response.ids, end] if response.finished else list(response.ids)
        logits = model(torch.tensor([prompt + said])).logits[0, len(prompt) - 1 : -1]
        expected = logits.log_softmax(-1).gather(1, torch.tensor(said)[:, None])[:, 0]
        np.testing.assert_allclose(response.logprobs, expected.detach(), rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_the_gpus_of_several_slots_share_a_teacher(world, tmp_path, monkeypatch):
    """The slots are those of GPUs, and what runs in them is on the CPU."""
    noted = tmp_path / "noted"
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setenv("STAND_IN_GPUS", str(noted))
    store = launching.stocked(SimpleNamespace(inputs=world[1]), tmp_path)
    session = local.LocalSession(LaunchOptions(workers=None, threads=1, gpus=(0, 1), store=store.root))
    session.device = "cpu"
    spec = {"split": "train", "max_new_tokens": 24, "precision": "float32", "threads": 1, "backend": "vllm"}
    stage = Stage("teach", "generate", spec, launching.INPUTS, owner=TEACHER)
    done = launching.run(store, stage, session=lambda: session, ranks=1, teacher_gpus=2)
    assert noted.read_text() == "2 share it, of 4,7"
    responses = [row["responses"] for row in read_lines(done.artifacts[stage.key].path / "responses.jsonl")]
    assert responses == made(world, tmp_path, "transformers")[0]


def test_only_stages_in_which_vllm_runs_the_teacher_take_its_gpus(tmp_path):
    found = cells(teacher=f"vllm[path={tmp_path}]", overrides={"demo": {"backend": "vllm"}})["seqkd"]
    texts = {f"teacher: generate {split} responses" for split in ("training", "test")}
    assert {stage.label for stage in found.stages if stage.parallel} == texts
    assert {s.name for c in signalled("kd").values() for s in c.stages if s.parallel} == {
        "generate",
        "signals-reference",
    }
    assert not [stage for cell in cells().values() for stage in cell.stages if stage.parallel]


def test_only_a_vllm_teachers_training_responses_keep_them(tmp_path):
    found = cells(teacher=f"vllm[path={tmp_path}]")["seqkd"]
    assert [s.name for s in found.stages if "logprobs" in s.spec] == ["teach"]
    assert not [s for s in cells(overrides={"demo": {"backend": "vllm"}})["seqkd"].stages if "logprobs" in s.spec]


@pytest.mark.slow
def test_a_text_that_fills_the_context_is_read_to_its_end(world, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    directory, _ = world
    served = vllm_engine.Served(directory / "model", "cpu", "float32", directory, {})
    full = Tokens([0] + [5] * 200, [7] * 55)
    put, told = [], []
    served.read([full, Tokens([0], [3])], 2, lambda *said: put.append(said), lambda *done: told.append(done))
    ((places, said, ids),) = put
    assert len(full) == served.encoder.context
    assert (places.tolist(), said.shape, ids.shape) == (list(range(56)), (56, 4), (56, 2))
    assert told == [(2, 2)]
