"""What only a GPU can show, and, without one, that everything up to the device is right."""

from __future__ import annotations

import gc
import itertools
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
import torch
from torch.profiler import ProfilerActivity, profile

from plad_bench import LaunchOptions, Sampling
from plad_bench.contract.errors import MissingError
from plad_bench.execute import energy
from plad_bench.learn import compiled, generation, models, objectives, sequences, training
from plad_bench.learn.chunked_logits import Predictor, label_logprobs
from plad_bench.learn.length import StepCount
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.plan import resources, shapes
from plad_bench.plan.resources import Device, Lengths, TrainingWork
from plad_bench.running.setup import gpus_of
from plad_bench_plugins.launchers import local

ROOT = Path(__file__).parents[2]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
EITHER = pytest.mark.parametrize("device", ["cpu", pytest.param("cuda:0", marks=[CUDA, pytest.mark.gpu])])
"""A test that runs on a CPU, too, so that it is known to run: a GPU is seldom there."""
SEQUENCES = [Tokens([0, 5, 6, 7], [8, 9, 1]), Tokens([0, 11], [12, 13, 14, 15, 16, 1])]


# ------------------------------------------------------------------------------------------------------- without one


class Started:
    """A process that was asked for, and has ended."""

    all: list = []  # noqa: RUF012

    def __init__(self, command, *, env, **more):
        self.all.append((env["CUDA_VISIBLE_DEVICES"], command[-1]))

    def poll(self):
        return 0

    def kill(self):
        pass

    def communicate(self):
        return None, None


@pytest.fixture
def started(monkeypatch):
    """What each process that was asked for sees, and its rank."""
    monkeypatch.setattr(local.subprocess, "Popen", Started)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(Started, "all", [])
    return Started.all


@pytest.mark.parametrize(
    ("visible", "counted", "seen"),
    [("4,6", (0, 1), ["4", "6"]), ("GPU-8a,GPU-9b", (0, 1), ["GPU-8a", "GPU-9b"]), ("2", (0,), ["2"]), ("-1", (), [])],
)
def test_slots_are_the_gpus_that_the_user_lets_us_see(tmp_path, monkeypatch, started, visible, counted, seen):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert gpus_of({"gpus": None}) == counted
    if counted:
        session = local.LocalSession(LaunchOptions(workers=1, threads=1, gpus=counted, store=tmp_path))
        for slot in range(session.slots):
            session.start(tmp_path / "job", tmp_path / "log", [slot])
        assert started == [(gpu, "0") for gpu in seen]
    with pytest.raises(MissingError, match="no GPU 7"):
        gpus_of({"gpus": "7"})


def test_a_machine_without_the_variable_counts_from_zero(tmp_path, monkeypatch, started):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(Path, "glob", lambda self, pattern: iter([self / "nvidia3", self / "nvidia5"]))
    assert gpus_of({"gpus": None}) == (0, 1)
    session = local.LocalSession(LaunchOptions(workers=1, threads=1, gpus=(0, 1), store=tmp_path))
    session.start(tmp_path / "job", tmp_path / "log", [1])
    assert started == [("1", "0")]


def test_each_rank_sees_the_gpu_of_its_slot_alone(tmp_path, monkeypatch, started):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    session = local.LocalSession(LaunchOptions(workers=1, threads=1, gpus=(0, 1, 2), store=tmp_path))
    session.start(tmp_path / "job", tmp_path / "log", [0, 2])
    assert started == [("4", "0"), ("7", "1")]


@pytest.mark.slow
def test_the_benchmark_runs_from_end_to_end_but_for_the_device(tmp_path):
    out = tmp_path / "page.md"
    command = [sys.executable, str(ROOT / "benchmarks" / "gpu.py"), "--smoke", "--out", str(out)]
    made = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert made.returncode == 0, made.stderr[-2000:]
    text = out.read_text()
    assert text.count("\n## ") == 5
    for table in ("tokens of a chunk", "SFT on given text", "generate (bf16 weights)", "sequences of a step"):
        assert f"| {table} |" in text
    assert "FAILED" not in text
    assert str(tmp_path) not in text


# ---------------------------------------------------------------------------------------------------------- with one


def kd_step(device, *, bf16, rows=0, checkpointed=False, compiles=False):
    """Loss and gradients of a kd step, in float32 on the CPU."""
    student, teacher = tiny.llama(1).to(device), tiny.llama(2).to(device)
    if checkpointed:
        models.checkpoint(student)
    kd = tiny.registry().get("method", "kd")
    module = objectives.TokenLoss(student, teacher, tiny.registry().configure(kd, {}), rows=rows).train()
    if compiles:
        module.compile_parts()
    with torch.autocast(device, torch.bfloat16, enabled=bf16):
        loss, _ = module(kd.objective.terms[0], collate(SEQUENCES, 2, device), 9)
    loss.backward()
    return loss.detach().float().cpu(), {n: p.grad.float().cpu() for n, p in student.named_parameters()}


def cosine(a, b):
    flat = [torch.cat([g.flatten() for g in grads.values()]) for grads in (a, b)]
    return float(torch.nn.functional.cosine_similarity(*flat, dim=0))


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("checkpointed", [False, True])
@pytest.mark.parametrize("rows", [0, 2])
def test_a_bf16_step_is_the_cpus_float32_step_but_for_rounding(rows, checkpointed):
    loss, gradients = kd_step("cuda", bf16=True, rows=rows, checkpointed=checkpointed)
    expected, exact = kd_step("cpu", bf16=False)
    assert float(loss) == pytest.approx(float(expected), rel=0.05)
    assert cosine(gradients, exact) > 0.98


@CUDA
@pytest.mark.gpu
def test_chunked_is_dense():
    dense, chunked = (kd_step("cuda", bf16=False, rows=rows) for rows in (0, 2))
    torch.testing.assert_close(chunked, dense, rtol=1e-3, atol=1e-5)
    batch = collate(SEQUENCES, 2, "cuda")
    labels = batch.labels[:, batch.start :][batch.valid]
    with torch.no_grad():
        found = [label_logprobs(Predictor(tiny.llama(1).cuda(), rows)(batch), labels) for rows in (0, 2)]
    torch.testing.assert_close(*found, rtol=1e-3, atol=1e-4)


@CUDA
@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of the compiler
@pytest.mark.parametrize(("bf16", "least"), [(False, 0.99999), (True, 0.98)])
def test_compiled_is_not_compiled_but_for_rounding(caplog, bf16, least):
    (loss, found), (expected, exact) = (kd_step("cuda", bf16=bf16, rows=2, compiles=c) for c in (True, False))
    assert not [r for r in caplog.records if r.name == compiled.__name__]
    assert float(loss) == pytest.approx(float(expected), rel=0.05 if bf16 else 1e-3)
    assert cosine(found, exact) > least


@CUDA
@pytest.mark.gpu
def test_greedy_text_is_the_cpus():
    prompts = [tiny.sentence(i, 3 + i) for i in range(4)]
    decoding = generation.Decoding(max_new_tokens=6)
    texts = [generation.generate(tiny.llama(1).to(d), tiny.tokenizer(), prompts, decoding) for d in ("cpu", "cuda")]
    assert texts[0] == texts[1]


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("sampling", [Sampling(), Sampling(teacher_mix=0.3), Sampling(verify_top_k=5, draft=3)])
def test_rollouts_draw_the_cpus_tokens(sampling):
    made = [
        Rollouts(tiny.llama(1).to(d), tiny.llama(2).to(d), tiny.tokenizer(), max_new_tokens=6, seed=0).sample(
            [[0, 5, 6], [0, 7]], ["a", "b"], 0, sampling
        )
        for d in ("cpu", "cuda")
    ]
    assert made[0] == made[1]


@EITHER
@pytest.mark.parametrize("method", ["sft", "kd", "plad", "gkd", "minillm"])
def test_a_stage_trains_in_bf16_and_records_the_devices_memory(tmp_path, device, method):
    world, cuda = tiny.World(tmp_path), device != "cpu"
    more = {"max_new_tokens": 6} if method in {"gkd", "minillm"} else {}
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    trained = world.train(method, device=device, precision="bf16", micro_batch=2, **more)
    held = trained.manifest["cost"]["peak_memory_bytes"]
    assert held > 0
    assert not cuda or held == torch.cuda.max_memory_allocated()
    assert all(weight.dtype == torch.float32 for weight in tiny.weights(trained).values())


@pytest.fixture
def alone(tmp_path, device):
    """A process group of one rank, which gathers and reduces like any other."""
    torch.distributed.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
        store=torch.distributed.FileStore(str(tmp_path / "rendezvous"), 1),
        rank=0,
        world_size=1,
        device_id=None if device == "cpu" else torch.device(device),
    )
    yield
    torch.distributed.destroy_process_group()


@contextmanager
def held(device):
    """A list that gets the most bytes that tensors took within this context, without those that were there before."""
    found = []
    if device != "cpu":
        gc.collect()  # a module that was sharded is part of a cycle
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        yield found
        found.append(torch.cuda.max_memory_allocated() - before)
        return
    from torch._C._profiler import _EventType

    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as made:
        yield found
    events = list(made.profiler.kineto_results.experimental_event_tree())
    for event in events:
        events += event.children
    sizes = [(e.start_time_ns, e.typed[1].alloc_size) for e in events if e.typed[0] == _EventType.Allocation]
    found.append(max(itertools.accumulate(size for _, size in sorted(sizes))))


@EITHER
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sharded_student_trains_as_a_plain_one_and_takes_the_memory_that_was_estimated(
    monkeypatch, alone, device, checkpointing
):
    """With one rank nothing is divided, but weights are gathered, and gradients reduced, as with several."""
    cuda = device != "cpu"
    monkeypatch.setattr(training, "LOG_EVERY", 1)
    if not cuda:
        monkeypatch.setattr(resources, "ALONE", resources.CPU_ALONE)
    method = tiny.registry().components("method")["sft"][0].component
    length, size = 256 if cuda else 64, 4
    width, layers, words = (1024, 12, 32000) if cuda else (256, 4, 4000)
    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers}
    more = {"num_attention_heads": 8, "vocabulary": words, "tie_word_embeddings": False, "max_position_embeddings": 512}
    draws = torch.Generator().manual_seed(0)
    texts = torch.randint(5, words, (size, 2, length // 2), generator=draws).tolist()
    step = [{"term": method.objective.terms[0], "total": size * length // 2}]
    losses, took = {}, {}
    for shard in (False, True):
        student = tiny.llama(1, **sizes, **more).train()
        weights = sum(p.nbytes for p in student.parameters())
        if checkpointing:
            models.checkpoint(student)

        class Data(training.Steps):
            def at(self, number, share):
                batch = sequences.collate([Tokens(*text) for text in texts], 0, device)
                return training.Step(lambda size: [{**one, "batch": batch} for one in step], size, size * length // 2)

        with held(device) as most:
            module = objectives.TokenLoss(
                student if shard else student.to(device), None, tiny.registry().configure(method, {})
            )
            curve = training.train(
                module, Data(), length=StepCount(3), lr=1e-4, seed=0, precision="bf16", device=device,
                checkpoint=Path("never-written"), progress=lambda *_, **__: None, shard=shard,
            ).curve  # fmt: skip
        work = TrainingWork(
            student=shapes.shape_of(student.config.to_dict()), steps=1, batch=size, bf16=True, sharded=shard,
            lengths=Lengths(length / 2, length / 2, length),
        )  # fmt: skip
        gpu = Device(torch.cuda.mem_get_info()[1] if cuda else 0, 0, 1, gpu=True)
        estimate = resources._training_memory(work, gpu, size, checkpointing=checkpointing, compiled=False)
        losses[shard] = [of["loss"] for of in curve]
        took[shard] = (most[0] + (0 if cuda else weights)) / estimate
        del student, module
    assert losses[True] == pytest.approx(losses[False], rel=0.01)
    assert took == pytest.approx({False: 1, True: 1}, rel=0.15)


@EITHER
def test_a_killed_training_resumes_on_the_device(tmp_path, monkeypatch, device):
    world, saved = tiny.World(tmp_path), training._save

    def killed(*args):
        saved(*args)
        raise KeyboardInterrupt

    whole = tiny.weights(world.train("sft", device=device, steps=30))
    monkeypatch.setattr(training, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        world.train("sft", device=device, steps=30, name="again")
    monkeypatch.undo()
    resumed = tiny.weights(world.train("sft", device=device, steps=30, name="again"))
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("gpus", "signals"),
    [
        pytest.param("none", "top-8", marks=pytest.mark.slow),
        *(pytest.param("0", signals, marks=[CUDA, pytest.mark.gpu]) for signals in ("dense", "top-8")),
    ],
)
def test_a_run_of_the_command(tmp_path, gpus, signals):
    command = [sys.executable, "-m", "plad_bench", "run", "--methods", "kd,plad,gkd", "--gpus", gpus, "--limit", "8"]
    sizes = ["--steps", "2", "--sft-steps", "2", "--batch", "4", "--max-new-tokens", "8", "--teacher-logprobs", signals]
    places = ["--store", "store", "--boards-dir", "boards", "--backend", "transformers"]
    paths = [str(ROOT), str(ROOT / "plugins"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    made = subprocess.run(
        [*command, *sizes, *places], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr[-2000:]
    records = [json.loads(file.read_text()) for file in (tmp_path / "boards").rglob("seed-0.json")]
    trained = [r for r in records if "train_device_seconds" in r.get("cost", {})]
    assert len(trained) == 3
    assert {r["protocol"]["precision"] for r in trained} == {"float32" if gpus == "none" else "bf16"}
    if gpus != "none":
        assert {r["provenance"]["device"] for r in trained} == {torch.cuda.get_device_name(0)}


@pytest.mark.gpu
@CUDA
def test_the_drivers_counter_grows_while_the_device_works():
    pytest.importorskip("pynvml", reason="no nvidia-ml-py: pip install 'plad-bench[energy]'")
    meter = energy.meter("cuda:0")
    values, ends = torch.ones(4096, 4096, device="cuda"), time.monotonic() + 1
    while time.monotonic() < ends:
        values = values @ values / 4096
        torch.cuda.synchronize()
    assert 0.01 < meter.watt_hours() < 1  # 36 W to 3.6 kW over the second
