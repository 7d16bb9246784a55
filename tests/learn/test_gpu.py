"""What only a GPU can show, and, without one, that everything up to the device is right."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import tiny
import torch

from plad_bench import LaunchOptions, Sampling
from plad_bench.contract.errors import MissingError
from plad_bench.execute import energy
from plad_bench.learn import compiled, generation, models, objectives, sequences, training
from plad_bench.learn.chunked_logits import Predictor, label_logprobs
from plad_bench.learn.length import StepCount
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.plan import resources
from plad_bench.plan.resources import Device, Lengths, TrainingWork
from plad_bench.running.setup import gpus_of
from plad_bench_plugins.launchers import local

ROOT = Path(__file__).parents[2]
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
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


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("method", ["sft", "kd", "plad", "gkd", "minillm"])
def test_a_stage_trains_in_bf16_and_records_the_devices_memory(tmp_path, method):
    world = tiny.World(tmp_path)
    more = {"max_new_tokens": 6} if method in {"gkd", "minillm"} else {}
    torch.cuda.reset_peak_memory_stats()
    trained = world.train(method, device="cuda:0", precision="bf16", micro_batch=2, **more)
    assert trained.manifest["cost"]["peak_memory_bytes"] == torch.cuda.max_memory_allocated() > 0
    assert all(weight.dtype == torch.float32 for weight in tiny.weights(trained).values())


@pytest.fixture
def alone(tmp_path):
    """A process group of one rank, which gathers and reduces like any other."""
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl",
        store=torch.distributed.FileStore(str(tmp_path / "rendezvous"), 1),
        rank=0,
        world_size=1,
        device_id=torch.device("cuda:0"),
    )
    yield
    torch.distributed.destroy_process_group()


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_sharded_student_trains_as_a_plain_one_and_takes_the_memory_that_was_estimated(alone, checkpointing):
    """With one rank nothing is divided, but weights are gathered, and gradients reduced, as with several."""
    method = tiny.registry().components("method")["sft"][0].component
    length, size = 256, 4
    sizes = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 8, "num_hidden_layers": 12}
    more = {"vocabulary": 32000, "tie_word_embeddings": False, "max_position_embeddings": 512}
    draws = torch.Generator().manual_seed(0)
    texts = torch.randint(5, 32000, (size, 2, length // 2), generator=draws).tolist()
    step = [{"term": method.objective.terms[0], "total": size * length // 2}]
    found = {}
    for shard in (False, True):
        student = tiny.llama(1, **sizes, **more).to("cpu" if shard else "cuda").train()
        if checkpointing:
            models.checkpoint(student)
        module = objectives.TokenLoss(student, None, tiny.registry().configure(method, {}))

        class Data(training.Steps):
            def at(self, number, share):
                batch = sequences.collate([Tokens(*text) for text in texts], 0, "cuda:0")
                return training.Step(lambda size: [{**one, "batch": batch} for one in step], size, size * length // 2)

        gc.collect()  # a module that was sharded is part of a cycle
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(training, "LOG_EVERY", 1)
            curve = training.train(
                module,
                Data(),
                length=StepCount(6),
                lr=1e-4,
                seed=0,
                precision="bf16",
                device="cuda:0",
                checkpoint=Path("never-written"),
                progress=lambda *_, **__: None,
                shard=shard,
            ).curve
        work = TrainingWork(
            student=resources.shape_of(student.config.to_dict()),
            steps=1,
            batch=size,
            lengths=Lengths(length / 2, length / 2, length),
            bf16=True,
            sharded=shard,
        )
        device = Device(torch.cuda.mem_get_info()[1], 0, 1, gpu=True)
        estimate = resources._training_memory(work, device, size, checkpointing=checkpointing)
        found[shard] = [of["loss"] for of in curve], torch.cuda.max_memory_allocated() / estimate
        del student, module, Data
    assert found[True][0] == pytest.approx(found[False][0], rel=0.01)
    assert found[True][1] < 1.1


@CUDA
@pytest.mark.gpu
def test_a_killed_training_resumes_on_the_device(tmp_path, monkeypatch):
    world, saved = tiny.World(tmp_path), training._save

    def killed(*args):
        saved(*args)
        raise KeyboardInterrupt

    whole = tiny.weights(world.train("sft", device="cuda:0", steps=30))
    monkeypatch.setattr(training, "_save", killed)
    with pytest.raises(KeyboardInterrupt):
        world.train("sft", device="cuda:0", steps=30, name="again")
    monkeypatch.undo()
    resumed = tiny.weights(world.train("sft", device="cuda:0", steps=30, name="again"))
    torch.testing.assert_close(resumed, whole, rtol=1e-3, atol=1e-5)


@CUDA
@pytest.mark.gpu
@pytest.mark.parametrize("signals", ["dense", "top-8"])
def test_a_run_of_the_command_on_a_gpu(tmp_path, signals):
    command = [sys.executable, "-m", "plad_bench", "run", "--methods", "kd,plad,gkd", "--gpus", "0", "--limit", "8"]
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
    assert {r["provenance"]["device"] for r in trained} == {torch.cuda.get_device_name(0)}
    assert {r["protocol"]["precision"] for r in trained} == {"bf16"}


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
