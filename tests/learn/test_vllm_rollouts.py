"""On-policy text that vLLM's engine samples beside a training; a stand-in answers in its place."""

from __future__ import annotations

import importlib.util
import json
import multiprocessing
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import tiny
import torch
from killing import killed_at
from safetensors import safe_open
from transformers import LlamaConfig, LlamaForCausalLM

from plad_bench.contract.errors import MissingError, StageError, UsageError
from plad_bench.contract.memory_policy import ENGINE_SHARE
from plad_bench.contract.objectives import Sampling
from plad_bench.learn import vllm_engine, vllm_rollouts, vllm_rollouts_process
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.vllm_rollouts import VllmRollouts
from plad_bench.plan import backends, compatibility, matrix, requirements, resources, spec
from plad_bench.plan.resources import Device
from plad_bench.plan.spec import protocol_values
from plad_bench.running.setup import Planned, _check_ranks

STAND_IN = Path(__file__).parents[1] / "engines"
PROMPTS = [[0, 5, 9], [0, 7], [0, 11, 12, 13, 14]]
EXAMPLES = ["a", "b", "c"]
PLAIN = Sampling()


@pytest.fixture
def stand_in(monkeypatch):
    """The stand-in as the module vllm, in an engine without a process; the requests that it was sent."""
    where = importlib.util.spec_from_file_location("vllm", STAND_IN / "vllm.py")
    module = importlib.util.module_from_spec(where)
    where.loader.exec_module(module)
    monkeypatch.setitem(sys.modules, "vllm", module)
    requests = []

    class Engine:
        def __init__(self, settings):
            given = json.loads(json.dumps(settings))
            self.llm = vllm_rollouts_process.vllm_process.start_engine(given, **given["options"])

        def ask(self, request):
            requests.append(json.loads(json.dumps(request)))
            reply = vllm_rollouts_process._sample(self.llm, requests[-1])
            return {**json.loads(json.dumps(reply)), "peak_memory_bytes": 7, "processor_seconds": 2.0}

        def close(self):
            requests.append("close")

    monkeypatch.setattr(vllm_rollouts, "_Engine", Engine)
    return requests


def sampler(directory, student=None, teacher=None, *, new=8, seed=0, precision="float32"):
    own = Rollouts(student or tiny.llama(0), teacher, tiny.tokenizer(), new, seed, precision)
    return VllmRollouts(own, directory, "cpu", max(map(len, PROMPTS)) + new)


def changed(student):
    """The student after an update that changes every distribution."""
    with torch.no_grad():
        for weight in student.parameters():
            weight.add_(torch.randn_like(weight), alpha=0.3)


@pytest.mark.usefixtures("stand_in")
def test_a_text_depends_on_seed_step_and_example_alone(tmp_path):
    every = sampler(tmp_path).sample(PROMPTS, EXAMPLES, 3, PLAIN)
    assert sampler(tmp_path).sample(PROMPTS[1:2], EXAMPLES[1:2], 3, PLAIN) == every[1:2]
    assert sampler(tmp_path).sample(PROMPTS, EXAMPLES, 4, PLAIN) != every
    assert sampler(tmp_path, seed=1).sample(PROMPTS, EXAMPLES, 3, PLAIN) != every
    assert sampler(tmp_path).sample(PROMPTS, ["d", *EXAMPLES[1:]], 3, PLAIN)[1:] == every[1:]


@pytest.mark.usefixtures("stand_in")
def test_texts_end_where_those_of_the_other_sampler_do_and_are_counted(tmp_path):
    made, student = sampler(tmp_path, new=30), tiny.llama(0)
    texts = [text for step in range(8) for text in made.sample(PROMPTS, EXAMPLES, step, PLAIN)]
    end = tiny.tokenizer().eos_token_id
    assert {end} == made.own.end_tokens
    assert all(end not in text[:-1] and (text[-1] == end or len(text) == 30) for text in texts)
    assert {text[-1] == end for text in texts} == {True, False}
    assert made.own.cost == {"tokens_generated": sum(map(len, texts)), "peak_memory_bytes": 7}
    assert made.elsewhere == 2.0 / torch.get_num_threads()
    assert not student.training


def test_the_engine_gets_the_weights_of_every_step_once(tmp_path, stand_in):
    student = tiny.llama(0).train()
    made = sampler(tmp_path, student)
    for step, last in ((0, False), (0, True), (1, True), (4, False), (4, True), (5, True)):
        made.sample(PROMPTS, EXAMPLES, step, PLAIN)
        engine = made._engine.llm.model.state_dict()
        assert all(torch.equal(weight, engine[name]) for name, weight in student.state_dict().items())
        if last:  # the optimiser steps
            changed(student)
    assert [request["reload"] for request in stand_in] == [False, False, True, True, False, True]
    assert student.training


def test_texts_are_compared_at_the_first_hand_overs_and_ever_more_rarely(tmp_path, stand_in):
    made = sampler(tmp_path)
    for step in range(9):
        made.sample(PROMPTS, EXAMPLES, step, PLAIN)
    assert [n for n, request in enumerate(stand_in, 1) if request["logprobs"]] == [1, 2, 4, 8]


@pytest.mark.usefixtures("stand_in")
@pytest.mark.parametrize("precision", ["float32", "bf16"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_an_engine_with_older_weights_is_refused(tmp_path, monkeypatch, precision, temperature):
    student, sampling = tiny.llama(0), Sampling(temperature=temperature)
    made = sampler(tmp_path, student, precision=precision)
    made.sample(PROMPTS, EXAMPLES, 0, sampling)
    changed(student)
    made.sample(PROMPTS, EXAMPLES, 1, sampling)
    monkeypatch.setenv("STAND_IN_FORGETS", "1")
    changed(student)
    made.sample(PROMPTS, EXAMPLES, 2, sampling)  # the third hand-over, which is not looked at
    with pytest.raises(StageError, match=r"does not sample from the weights of LlamaForCausalLM.* 4 times") as refused:
        made.sample(PROMPTS, EXAMPLES, 3, sampling)
    assert "--rollouts transformers" in refused.value.remedy


@pytest.mark.usefixtures("stand_in")
def test_tokens_beyond_the_tokenizers_are_never_drawn(tmp_path):
    words = len(tiny.tokenizer())
    made = sampler(tmp_path, tiny.llama(0, vocabulary=2 * words), new=20)
    texts = [text for step in range(4) for text in made.sample(PROMPTS, EXAMPLES, step, PLAIN)]
    assert max(max(text) for text in texts) < words


def test_sampling_with_the_teacher_is_our_own(tmp_path, stand_in):
    given = (PROMPTS, EXAMPLES, 0, Sampling(teacher_mix=0.5))
    made = sampler(tmp_path, tiny.llama(0), tiny.llama(1))
    own = Rollouts(tiny.llama(0), tiny.llama(1), tiny.tokenizer(), 8, 0)
    assert made.sample(*given) == own.sample(*given)
    assert stand_in == []
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("stand_in")
def test_weights_are_written_in_the_precision_of_the_engine_and_tied_ones_once(tmp_path):
    sampler(tmp_path, tiny.llama(0, tie_word_embeddings=True), precision="bf16").sample(PROMPTS, EXAMPLES, 0, PLAIN)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        assert {file.get_tensor(name).dtype for name in file.keys()} == {torch.bfloat16}  # noqa: SIM118  not a mapping
        assert "lm_head.weight" not in file.keys()  # noqa: SIM118


def test_the_share_of_a_gpus_memory_is_that_of_the_estimate(tmp_path, monkeypatch):
    started = []
    monkeypatch.setattr(vllm_rollouts, "_Engine", started.append)
    made = sampler(tmp_path)
    made.device = "cuda:0"
    with pytest.raises(AttributeError):  # None is no engine
        made.sample(PROMPTS, EXAMPLES, 0, PLAIN)
    assert started[0]["options"]["gpu_memory_utilization"] == ENGINE_SHARE
    whole, cpu = Device(80e9, 0, 1, gpu=True), Device(10e9, 0, 1, gpu=False)
    assert resources.beside_engine(whole).memory == pytest.approx((1 - ENGINE_SHARE) * 80e9)
    assert resources.beside_engine(cpu).memory == 10e9 - resources.ENGINE_ON_CPU
    assert resources.beside_engine(Device(0, 0, 1, gpu=True)).memory == 0


# ------------------------------------------------------------------------------------------------------ before any work


def cells(methods, student="tiny", **overrides):
    given = {"task": "demo", "student": student, "teacher": "small", "metrics": "rouge-l"}
    run = spec.build(tiny.registry(), methods=methods, **given, overrides={"demo": overrides})
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_only_trainings_that_sample_from_the_student_alone_have_it_in_their_keys():
    methods = "sft,gkd,opd,distillm,minillm,minillm[teacher_mix=0],skd"
    usual, other = cells(methods), cells(methods, rollouts="vllm")
    differing = [row for row in usual if usual[row].checkpoint.key != other[row].checkpoint.key]
    assert differing == ["gkd", "opd", "distillm", "minillm[teacher_mix=0]"]
    assert {other[row].checkpoint.spec["rollouts"] for row in differing} == {"vllm"}
    assert cells("gkd", rollouts="transformers")["gkd"].checkpoint.key == usual["gkd"].checkpoint.key
    assert "rollouts" not in protocol_values(usual["gkd"].protocol)
    assert protocol_values(other["gkd"].protocol)["rollouts"] == "vllm"


def test_a_student_that_vllm_cannot_run_is_known_before_any_work(monkeypatch):
    monkeypatch.setattr(backends, "_for_cpus", lambda: True)
    found = cells("sft,gkd", rollouts="vllm")
    again = {cell.row: cell.skip for cell in matrix.reconsidered(found.values(), lambda key: None)}
    assert again["gkd"].endswith("(--rollouts transformers supports any)")
    assert not again["sft"]
    assert not compatibility.not_for_vllm(cells("gkd", "scratch[heads=2]", rollouts="vllm")["gkd"])
    adapted = cells("gkd", "scratch[heads=2]", rollouts="vllm", lora=4)["gkd"]
    assert "LoRA" in compatibility.not_for_vllm(adapted)
    assert not compatibility.not_for_vllm(cells("gkd", lora=4)["gkd"])


def test_without_vllm_nothing_begins(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="is not installed") as refused:
        requirements.check(cells("gkd", rollouts="vllm").values())
    assert "--rollouts transformers" in refused.value.remedy
    requirements.check(cells("sft,skd", rollouts="vllm").values())


def test_several_ranks_are_refused():
    protocols = [cell.protocol for cell in cells("gkd", rollouts="vllm").values()]
    with pytest.raises(UsageError, match="--ranks is 2"):
        _check_ranks({"ranks": 2}, protocols)
    _check_ranks({"ranks": 1}, protocols)
    _check_ranks({"ranks": 2}, [cell.protocol for cell in cells("gkd").values()])


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ("sft,gkd", ["on-policy text of gkd is sampled by a vLLM engine beside each training, which takes 30%"]),
        ("gkd,opd,skd", ["on-policy text of gkd, opd is sampled by", "of skd is sampled by transformers: the teacher"]),
        ("sft,kd", ["--rollouts vllm changes nothing"]),
    ],
)
def test_a_plan_says_what_samples(methods, said):
    asked = list(cells(methods, rollouts="vllm").values())
    plan = Planned(asked, asked, [], "", None, None, None, {})
    remarks = plan.remarks()
    assert len(remarks) == len(said)
    assert all(part in remark for part, remark in zip(said, remarks, strict=True))
    plan.todo = list(cells(methods).values())
    assert plan.remarks() == []


# ------------------------------------------------------------------------------------------------------- with a process

needs_vllm = [pytest.mark.vllm, pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")]


@pytest.fixture(params=["stand-in", pytest.param("vllm", marks=needs_vllm)])
def engine(request, monkeypatch):
    """Start the stand-in, or vLLM itself, in the engine's process."""
    if request.param == "stand-in":
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))


def student(seed):
    """A model of random weights that vLLM can run."""
    torch.manual_seed(seed)
    sizes = {"hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    shape = {"vocab_size": 320, "max_position_embeddings": 128, "initializer_range": 0.3, "tie_word_embeddings": True}
    return LlamaForCausalLM(LlamaConfig(**sizes, **ends, **shape))


@pytest.fixture
def world(tmp_path):
    made = tiny.World(tmp_path)
    made.model("model", student(0))
    made.model("teacher", student(1))
    return made


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_a_killed_training_goes_on_with_the_texts_of_an_undisturbed_one(world):
    given = {"params": {"on_policy": 1.0}, "steps": 30, "lr": 1e-2, "max_new_tokens": 6, "rollouts": "vllm"}
    whole = world.train("gkd", **given)
    with killed_at(28):
        world.train("gkd", name="killed", **given)
    resumed = world.train("gkd", name="killed", **given)
    assert tiny.weights(resumed).keys() == tiny.weights(whole).keys()
    assert all(torch.equal(tiny.weights(resumed)[name], weight) for name, weight in tiny.weights(whole).items())
    cost = [made.manifest["cost"]["tokens_generated"] for made in (whole, resumed)]
    assert cost[0] == cost[1] > 30 * 6
    assert whole.manifest["cost"]["peak_memory_bytes"] > 2e8
    assert not _children()


@pytest.mark.slow
@pytest.mark.usefixtures("engine")
def test_an_engine_that_fails_says_so(tmp_path, monkeypatch):
    made = sampler(tmp_path, student(0))
    made.context = 2  # too short for the prompts
    with pytest.raises(StageError, match="vLLM failed: ") as refused:
        made.sample(PROMPTS, EXAMPLES, 0, PLAIN)
    assert "--rollouts transformers" in refused.value.remedy
    made.close()
    assert not _children()
    monkeypatch.setattr(vllm_rollouts.sys, "executable", "/bin/false")
    with pytest.raises(StageError, match="vLLM failed: its process ended with code 1"):
        sampler(tmp_path, student(0)).sample(PROMPTS, EXAMPLES, 0, PLAIN)


@pytest.mark.slow
def test_no_engine_outlives_the_process_that_started_it(tmp_path, monkeypatch):
    """Even one that is at work."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(STAND_IN), *sys.path]))
    monkeypatch.setenv("STAND_IN_HANGS", str(tmp_path / "works"))
    student(0).save_pretrained(tmp_path)
    settings = {**vllm_engine.settings(tmp_path, "cpu", "float32"), "context": 20, "options": {}}
    given = {"reload": False, "prompts": [[0, 5]], "seeds": [1], "ends": [1], "unused": [], "temperature": 1.0}

    def parent(ours):
        engine = vllm_rollouts._Engine(settings)
        ours.send(engine._child.pid)
        engine.ask({**given, "max_new_tokens": 4, "logprobs": False})

    ours, theirs = multiprocessing.Pipe()
    process = multiprocessing.get_context("fork").Process(target=parent, args=(theirs,))
    process.start()
    engine = ours.recv()
    assert _within(60, (tmp_path / "works").exists)
    assert _runs(engine)
    process.kill()
    process.join()
    assert _within(3, lambda: not _runs(engine))


def _within(seconds, condition):
    """Whether a condition comes true in time."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if condition():
            return True
        time.sleep(0.05)
    return False


def _runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _children():
    """Processes of this one that run engines."""
    asked = ["ps", "--ppid", str(os.getpid()), "-o", "args="]
    said = subprocess.run(asked, capture_output=True, text=True, check=False).stdout
    return [line for line in said.splitlines() if "vllm_rollouts_process" in line]
