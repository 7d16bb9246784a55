"""The launcher of this machine: a training in several processes, and what is left when one, or the driver, dies."""

from __future__ import annotations

import json
import multiprocessing
import multiprocessing.forkserver
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch
from launching import INPUTS, run, stocked, training
from safetensors.torch import load_file
from waiting import wait_for

from plad_bench import LauncherSession, StageProcess
from plad_bench.cli import progress
from plad_bench.contract.errors import UsageError
from plad_bench.execute.engine import Engine, Watcher
from plad_bench.plan.stage import Stage, stage_name
from plad_bench_plugins.launchers import local
from plad_bench_plugins.launchers._together import Together

HERE = Path(__file__).parents[1]


# ------------------------------------------------------------------------------------------------ processes as one


class Scripted(StageProcess):
    """Ends as it is told, when it is polled often enough."""

    def __init__(self, code, polls=0):
        self.code, self.polls, self.killed = code, polls, False

    def poll(self):
        self.polls -= 1
        return -9 if self.killed and self.polls >= 0 else self.code if self.polls < 0 else None

    def kill(self):
        self.killed = True


@pytest.mark.parametrize(
    ("ranks", "code"),
    [
        ([(0, 0)], 0),
        ([(None, 0), (None, 0)], None),
        ([(None, 0), (0, 0)], None),  # a helper that is done is no end
        ([(0, 0), (None, 0)], 0),
        ([(0, 0), (1, 0)], 0),  # it lost the first when that left
        ([(None, 0), (1, 0)], 1),
        ([(1, 0), (-9, 0), (1, 0)], -9),
        ([(-9, 1), (1, 0)], -9),  # the first died between two looks, and the other of that
    ],
)
def test_the_end_of_a_stage_is_that_of_its_first_rank_or_the_failure_that_explains_the_others(ranks, code):
    processes = [Scripted(*rank) for rank in ranks]
    together = Together(processes)
    assert together.poll() == code
    assert [p.killed for p in processes] == [code is not None] * len(processes)
    assert together.poll() == code


# ------------------------------------------------------------------------------------------------------------ slots


class Recorder(LauncherSession):
    """Says what was started where; everything fails at once."""

    device = "cpu"

    def __init__(self, slots):
        self.slots, self.started = slots, []

    def start(self, job, log, slots):
        asked = json.loads(job.read_text())
        self.started.append((stage_name(asked["document"]), list(slots), asked["ranks"]))
        return Scripted(1)

    def close(self):
        pass


def test_trainings_take_a_slot_for_each_rank_and_wait_for_them_in_turn(store):
    session = Recorder(3)
    engine = Engine(store, lambda: session, store.root / "runs" / "mine", threads=1, ranks=2)
    scores = [Stage("score", "score", {"metric": i}, INPUTS) for i in range(2)]
    engine.run([[stage] for stage in (scores[0], training(), training(seed=1), scores[1])], lambda: None)
    assert session.started == [
        *(("score", [0], 1), ("sft-init", [1, 2], 2)),
        *(("sft-init", [0, 1], 2), ("score", [2], 1)),  # it did not slip past the training that had to wait
    ]


def test_more_ranks_than_slots_are_refused_before_anything_starts(store):
    session = Recorder(1)
    with pytest.raises(UsageError, match="--ranks 2 needs 2 slots; 1 are available"):
        run(store, training(), session=lambda: session)
    with pytest.raises(UsageError, match="--teacher-gpus 3 needs 3 slots; 1 are available"):
        run(store, training(), session=lambda: session, ranks=1, teacher_gpus=3)
    assert session.started == []


# -------------------------------------------------------------------------------------------- ranks on this machine


def test_two_processes_make_what_one_makes(store, world, tmp_path):
    stage = training()
    alone = run(stocked(world, tmp_path / "one"), stage, ranks=1).artifacts[stage.key]
    shared = run(store, stage).artifacts[stage.key]
    tiny.same_training(tiny.weights(world.inputs["model"]), tiny.weights(alone), tiny.weights(shared))
    assert shared.manifest["counts"] == alone.manifest["counts"]
    assert {n: c for n, c in shared.manifest["cost"].items() if "tokens" in n} == {
        n: c for n, c in alone.manifest["cost"].items() if "tokens" in n
    }
    assert (shared.manifest["provenance"].pop("ranks"), alone.manifest["provenance"].get("ranks")) == (2, None)
    progress = json.loads(next(store.runs.glob("mine/*.progress")).read_text())
    assert (progress["step"], progress["total"]) == (3, 3)
    assert multiprocessing.active_children() == []


SELECT = {"metric": {}, "max_new_tokens": 8, "points": 3, "prompts": 5}
SHARDED = {
    "its best checkpoint": ("sft", {"select": SELECT, "lora": 2, "steps": 6, "lr": 0.1}),
    "its text and its points": ("gkd", {"max_new_tokens": 6, "evaluate_at": [40], "steps": 6}),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARDED)
def test_two_processes_that_share_a_model_make_what_one_makes(world, tmp_path, case):
    method, more = SHARDED[case]
    inputs = INPUTS | ({"teacher": Stage("teacher", "init", {"of": "the teacher"})} if method == "gkd" else {})
    job = {"method": tiny.named("method", method), "select": tiny.named("metric", "rouge-l")}
    stage = Stage("distill", "train", {**training().spec, **more}, inputs, job)
    alone, shared = (
        run(stocked(world, tmp_path / str(count), inputs), stage, ranks=count, shard=count > 1).artifacts[stage.key]
        for count in (1, 2)
    )
    start = tiny.weights(world.inputs["model"])
    tiny.same_training(start, tiny.weights(alone), tiny.weights(shared))
    assert shared.manifest["provenance"]["sharded"]
    assert shared.manifest["notes"].get("selected") == alone.manifest["notes"].get("selected")
    for name in ("tokens_trained", "tokens_generated"):
        assert shared.manifest["cost"].get(name) == alone.manifest["cost"].get(name)
    for at in shared.manifest["notes"].get("points", ()):
        one, two = (load_file(of.path / f"at-{at}" / "model" / "model.safetensors") for of in (alone, shared))
        tiny.same_training(start, one, two)


class Killer(threading.Thread):
    """Kills the process of a rank as soon as a file is there, so many times."""

    def __init__(self, file, rank, times):
        super().__init__(daemon=True)
        self.file, self.rank, self.times = file, rank, times
        self.start()

    def run(self):
        killed = set()
        while len(killed) < self.times:
            children = sorted(child.pid for child in multiprocessing.active_children())
            if len(children) == 2 and not killed & set(children) and self.file.exists():
                os.kill(children[self.rank], signal.SIGKILL)
                killed.add(children[self.rank])
            time.sleep(0.001)


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_costs_one_try_and_no_bit_and_the_terminal_says_so(store, undisturbed, rank, capsys):
    stage = training(steps=120)
    killer = Killer(store.partial(stage.key) / "checkpoint.pt", rank, times=1)
    found = run(store, stage, watcher=progress.Lines(1)).artifacts[stage.key]
    told = "retrying SFT initialisation (seed 0): train: its process was killed by signal 9"
    assert capsys.readouterr().err.count(told) == 1
    assert not killer.is_alive()
    assert multiprocessing.active_children() == []
    torch.testing.assert_close(tiny.weights(found), tiny.weights(undisturbed), rtol=0, atol=0)
    assert tiny.curve(found) == tiny.curve(undisturbed)


def test_one_that_is_killed_again_and_again_fails_its_stage(store):
    stage = training(steps=100000)
    Killer(store.partial(stage.key), 1, times=2)
    message = run(store, stage).failures[stage.key].message
    assert message == "its process was killed by signal 9, which the system does when it runs out of memory"
    assert multiprocessing.active_children() == []


def test_a_worker_that_is_killed_with_a_lock_in_its_hand_leaves_no_lock(store, tmp_path):
    task = {"kind": "task", "name": "deadly", "params": {"marker": str(tmp_path / "killed")}}
    stage = Stage("data", "data", {"of": "deadly"}, job={"task": task})
    engine = run(store, stage, plugins=[HERE / "plugins" / "deadly.py"], timeout_s=60)
    assert (tmp_path / "killed").exists()
    assert engine.failures == {}
    assert stage.key in engine.artifacts


def test_the_driver_sleeps_until_a_stage_ends(store, monkeypatch):
    waits = []
    wait = local.LocalSession.wait

    def timed(session, seconds):
        began = time.monotonic()
        wait(session, 60)  # without an end to wake it, this would take a minute
        waits.append(time.monotonic() - began)

    monkeypatch.setattr(local.LocalSession, "wait", timed)
    stage = training(steps=1)
    assert stage.key in run(store, stage, ranks=1).artifacts
    assert len(waits) == 1
    assert waits[0] < 50


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_workers_share_no_memory_with_each_other():
    code = "import plad_bench_plugins.launchers._preload; print(open('/proc/self/maps').read())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    modes = re.findall(r"^[0-9a-f]+-[0-9a-f]+ (\S+)", done.stdout, re.MULTILINE)
    assert len(modes) > 100
    assert [mode for mode in modes if "w" in mode and mode.endswith("s")] == []


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_ctrl_c_does_not_reach_the_fork_server_not_even_while_it_imports(store):
    run(store, training(steps=1))
    status = Path(f"/proc/{multiprocessing.forkserver._forkserver._forkserver_pid}/status").read_text()
    blocked = int(re.search(r"^SigBlk:\s*(\w+)", status, re.MULTILINE)[1], 16)
    assert blocked >> (signal.SIGINT - 1) & 1
    assert signal.SIGINT not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


@pytest.mark.slow
def test_a_fork_server_that_is_killed_costs_one_try_and_leaves_no_worker(store, undisturbed):
    stage, pids = training(steps=120), []

    def kill_the_server():
        wait_for((store.partial(stage.key) / "checkpoint.pt").exists)
        pids.extend(child.pid for child in multiprocessing.active_children())
        os.kill(multiprocessing.forkserver._forkserver._forkserver_pid, signal.SIGKILL)

    threading.Thread(target=kill_the_server, daemon=True).start()
    found = run(store, stage).artifacts[stage.key]
    assert len(pids) == 2
    wait_for(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    torch.testing.assert_close(tiny.weights(found), tiny.weights(undisturbed), rtol=0, atol=0)


@pytest.mark.parametrize("sign", [ConnectionRefusedError(), BrokenPipeError(), EOFError()])
def test_a_fork_server_that_is_just_dying_is_started_again(sign):
    signs = [sign, sign]

    class Dying:
        def Process(self, **_):
            return self

        def start(self):
            if signs:
                raise signs.pop()

    context = Dying()
    assert local._forked(context, ()) is context
    assert signs == []


def test_an_input_that_turns_out_corrupt_is_made_again_and_the_terminal_says_so(store, tmp_path, capsys):
    task = {"kind": "task", "name": "deadly", "params": {"marker": str(tmp_path)}}  # which is there: it is not killed
    data = Stage("data", "data", {"of": "deadly"}, job={"task": task})
    tokenizer = Stage("tokenizer", "tokenizer", {"vocabulary": 300}, {"data": data})
    plugins = [HERE / "plugins" / "deadly.py"]
    artifact = run(store, data, plugins=plugins).artifacts[data.key]

    class Spoiler(progress.Bars):
        """Alters a file after the driver has compared it, as a failing disk would."""

        def stage_started(self, running):
            if running.stage is tokenizer and not store.quarantined.exists():
                (artifact.path / "train.jsonl").write_text("{}")

    engine = run(store, tokenizer, plugins=plugins, watcher=Spoiler(1))
    assert engine.failures == {}
    assert tokenizer.key in engine.artifacts
    assert len(list(store.quarantined.iterdir())) == 1
    assert (
        "retrying train the tokenizer: its input prepare the data was corrupt; it is computed again"
        in capsys.readouterr().err
    )


def test_what_fails_on_all_ranks_says_why(store):
    stage = training(lr=1e30, steps=30)
    engine = run(store, stage)
    assert "Lower the learning rate" in engine.failures[stage.key].message
    assert multiprocessing.active_children() == []


def test_a_stage_of_several_ranks_that_takes_too_long_is_stopped(store):
    stage = training(steps=100000)
    engine = run(store, stage, timeout_s=0.5)
    assert "--timeout" in engine.failures[stage.key].message
    assert multiprocessing.active_children() == []


class Impatient(Watcher):
    """Presses Ctrl-C, which reaches the driver alone."""

    def tick(self, running, waiting):
        if running and running[0].progress():
            raise KeyboardInterrupt


def test_an_interrupt_leaves_no_rank_behind(store):
    with pytest.raises(KeyboardInterrupt):
        run(store, training(steps=100000), watcher=Impatient())
    assert multiprocessing.active_children() == []


def _others(driver):
    """Processes of the driver's session: its fork server, and the ranks."""
    listed = subprocess.run(["ps", "-s", str(driver), "-o", "pid="], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in listed.split() if int(p) != driver]


@pytest.mark.slow
def test_nor_does_a_driver_that_is_killed(tmp_path):
    teacher = "scratch[layers=1,width=24,heads=2,vocabulary=300,steps=100000]"
    given = ["--task", "mini", "--methods", "none", "--teacher", teacher, "--workers", "2", "--ranks", "2"]
    driver = subprocess.Popen(
        [str(Path(sys.executable).with_name("plad-bench")), "-p", str(HERE / "plugins" / "mini.py"), "run", *given],
        cwd=tmp_path,
        env={**os.environ, "PLAD_BENCH_STORE": str(tmp_path / "store")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_for(lambda: list((tmp_path / "store" / "runs").glob("*/teacher-*.progress")))
    assert len(_others(driver.pid)) >= 4  # the fork server with its tracker, and two ranks
    driver.kill()
    driver.wait()
    wait_for(lambda: not _others(driver.pid), 30)


def test_a_worker_that_ends_while_its_driver_lives_keeps_its_exit_code(tmp_path):
    job = tmp_path / "stage.job"
    job.write_text(json.dumps({"store": str(tmp_path), "shipped": [], "key": "00", "inputs": {}}))
    with local.fresh(job, tmp_path / "log", 0, {}) as process:
        assert process.wait(timeout=120) == 1
    assert json.loads(job.with_suffix(".error").read_text())["kind"] == "failed"
