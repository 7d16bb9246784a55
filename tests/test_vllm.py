"""Generation with vLLM: what transformers says, token by token. The first part needs no vLLM."""

from __future__ import annotations

from importlib.util import find_spec

import pytest
import tiny
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from plad_bench.contract.errors import MissingError, StageError
from plad_bench.execute.stages import generate
from plad_bench.execute.stages.files import Prompt, read_lines, write_prompts
from plad_bench.execute.store import Artifact
from plad_bench.learn import vllm_engine
from plad_bench.plan import backends, matrix, requirements, spec
from plad_bench.plan.spec import protocol_values
from plad_bench_plugins.checks import backends as checks

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
    assert usual["seqkd"].plan.warmup.key == other["seqkd"].plan.warmup.key
    assert "backend" not in protocol_values(usual["seqkd"].protocol)
    assert protocol_values(other["seqkd"].protocol)["backend"] == "vllm"


def test_a_vllm_teacher_gives_text_that_vllm_generates(tmp_path):
    found = cells(teacher=f"vllm[path={tmp_path}]")
    assert found["teacher"].responses.spec["backend"] == found["seqkd"].plan.teach.spec["backend"] == "vllm"
    assert found["student"].responses.spec["backend"] == "transformers"
    assert "provides text" in found["kd"].skip


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


def test_an_engine_that_ends_without_an_answer_fails_the_stage(monkeypatch):
    monkeypatch.setattr(vllm_engine.sys, "executable", "/bin/false")
    with pytest.raises(StageError, match="vLLM failed: its process ended with code 1"):
        vllm_engine._run({})


# ------------------------------------------------------------------------------------------------------- with vLLM


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
        Prompt(id=f"id{i:02}", split="train", prompt=tiny.sentence(i, 3 + i), references=("x",), meta={})
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
