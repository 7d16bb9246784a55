"""Launchers: a training that several slots share, and what is left when one of its processes, or the driver, dies."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import tiny
import torch

from plad_bench import LauncherSession, LaunchOptions, StageProcess
from plad_bench.contract.errors import UsageError
from plad_bench.execute.engine import Engine, Options, Watcher
from plad_bench.execute.store import Store
from plad_bench.plan.stages import Stage
from plad_bench_plugins.launchers import local
from plad_bench_plugins.launchers._together import Together

HERE = Path(__file__).parent
INPUTS = {"data": Stage("data", "data", {}), "model": Stage("init", "init", {})}


def training(**spec):
    """A warm start on the world of tests/tiny.py."""
    usual = {"steps": 3, "lr": 1e-2, "batch": 6, "seed": 0, "precision": "float32", "threads": 1}
    return Stage("warmup", "train", {**usual, **spec}, INPUTS, {"method": tiny.named("method", "sft")})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world"))


def _stocked(world, directory):
    """A store that has the data and a model."""
    made = Store(directory / "store")
    made.prepare()
    for role, stage in INPUTS.items():
        staging = made.stage_directory(stage.key)
        shutil.copytree(world.inputs[role].path, staging, dirs_exist_ok=True)
        made.commit(staging, stage.document, stage.key, {"counts": {}, "cost": {}})
    return made


@pytest.fixture
def store(world, tmp_path):
    return _stocked(world, tmp_path)


def run(store, stage, *, session=None, ranks=2, watcher=None, **options):
    """The engine, after it has made a stage in two slots of this machine."""
    opened = session or (lambda: local.LocalSession(LaunchOptions(workers=2, threads=1, gpus=())))
    engine = Engine(
        store,
        opened,
        store.root / "runs" / "mine",
        threads=1,
        options=Options(**options),
        watcher=watcher or Watcher(),
        ranks=ranks,
    )
    engine.run([[stage]], lambda: None)
    return engine


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
        self.started.append((asked["document"]["stage"], list(slots), asked["ranks"]))
        return Scripted(1)

    def close(self):
        pass


def test_trainings_take_a_slot_for_each_rank_and_wait_for_them_in_turn(store):
    session = Recorder(3)
    engine = Engine(store, lambda: session, store.root / "runs" / "mine", threads=1, ranks=2)
    scores = [Stage("score", "score", {"metric": i}, INPUTS) for i in range(2)]
    engine.run([[stage] for stage in (scores[0], training(), training(seed=1), scores[1])], lambda: None)
    assert session.started == [
        *(("score", [0], 1), ("warmup", [1, 2], 2)),
        *(("warmup", [0, 1], 2), ("score", [2], 1)),  # it did not slip past the training that had to wait
    ]


def test_more_ranks_than_slots_are_refused_before_anything_starts(store):
    session = Recorder(1)
    with pytest.raises(UsageError, match="--ranks 2 wants as many slots, and there are 1"):
        run(store, training(), session=lambda: session)
    assert session.started == []


# -------------------------------------------------------------------------------------------- ranks on this machine


def test_two_processes_make_what_one_makes(store, world, tmp_path):
    stage = training()
    alone = run(_stocked(world, tmp_path / "one"), stage, ranks=1).artifacts[stage.key]
    shared = run(store, stage).artifacts[stage.key]
    torch.testing.assert_close(tiny.weights(shared), tiny.weights(alone), rtol=2e-4, atol=2e-6)
    assert shared.manifest["counts"] == alone.manifest["counts"]
    assert {n: c for n, c in shared.manifest["cost"].items() if "tokens" in n} == {
        n: c for n, c in alone.manifest["cost"].items() if "tokens" in n
    }
    assert (shared.manifest["provenance"].pop("ranks"), alone.manifest["provenance"].get("ranks")) == (2, None)
    progress = json.loads(next(store.runs.glob("mine/*.progress")).read_text())
    assert (progress["step"], progress["total"]) == (3, 3)
    assert multiprocessing.active_children() == []


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """What a training of 120 steps comes to."""
    stage = training(steps=120)
    return run(_stocked(world, tmp_path_factory.mktemp("undisturbed")), stage).artifacts[stage.key]


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


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_costs_one_try_and_no_bit(store, undisturbed, rank):
    stage = training(steps=120)
    killer = Killer(store.partial(stage.key) / "checkpoint.pt", rank, times=1)
    found = run(store, stage).artifacts[stage.key]
    assert not killer.is_alive()
    assert multiprocessing.active_children() == []
    torch.testing.assert_close(tiny.weights(found), tiny.weights(undisturbed), rtol=0, atol=0)
    assert tiny.curve(found) == tiny.curve(undisturbed)


def test_one_that_is_killed_again_and_again_fails_its_stage(store):
    stage = training(steps=100000)
    Killer(store.partial(stage.key), 1, times=2)
    assert run(store, stage).failures[stage.key].message == "its process was killed by signal 9"
    assert multiprocessing.active_children() == []


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


def _wait_for(condition, seconds=120):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return
        time.sleep(0.02)
    pytest.fail("it did not happen in time")


def _others(driver):
    """Processes of the driver's session: its fork server, and the ranks."""
    listed = subprocess.run(["ps", "-s", str(driver), "-o", "pid="], capture_output=True, text=True, check=False).stdout
    return [int(p) for p in listed.split() if int(p) != driver]


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
    _wait_for(lambda: list((tmp_path / "store" / "runs").glob("*/teacher-*.progress")))
    assert len(_others(driver.pid)) >= 4  # the fork server with its tracker, and two ranks
    driver.kill()
    driver.wait()
    _wait_for(lambda: not _others(driver.pid), 30)
