"""A place in which a command of the program is run, disturbed, run again, and compared with an undisturbed run."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from standin import Endpoint

from plad_bench.execute.store import Store
from plad_bench.records import storage

HERE = Path(__file__).parent
PROGRAM = str(Path(sys.executable).with_name("plad-bench"))
HANG_S = 300
"""A command that takes longer has hung. An undisturbed one takes seconds; the machine may be busy."""


class StormError(AssertionError):
    """What a promise was broken by."""


@dataclass(frozen=True)
class Matrix:
    """What is run: the options of the command, and the stand-in for an endpoint if it asks one."""

    name: str
    options: tuple[str, ...]
    endpoint: Endpoint | None = None

    def arguments(self):
        teacher = ()
        if self.endpoint is not None:
            teacher = (
                "--teacher",
                f"openai[model=m,base_url={self.endpoint.url},concurrency=4,timeout=2,price_in=1,price_out=1]",
            )
        return ("-p", str(HERE / "plugin.py"), "run", *self.options, *teacher, "--gpus", "none", "--board", "storm")


FAKE = ("--task", "storm", "--launcher", "fake", "--workers", "2")
SCRATCH = "scratch[layers=1,width=16,heads=2,vocabulary=300,steps=10]"


def fake():
    """Trainings without a model."""
    return Matrix("fake", (*FAKE, "--methods", "sft,plad", "--teacher", SCRATCH))


def paid(server):
    """Those, taught by an endpoint that is paid for every answer."""
    return Matrix("paid", (*FAKE, "--methods", "seqkd", "--max-cost", "1000"), server)


def real(ranks=1):
    """Models that are trained in earnest."""
    options = ("--task", "storm", "--workers", "2", "--ranks", str(ranks), "--methods", "plad", "--teacher", SCRATCH)
    return Matrix(f"real-{ranks}", (*options, "--steps", "110", "--sft-steps", "60"))


@dataclass
class World:
    """A directory with a store and a board, and the processes of the commands that were started there."""

    matrix: Matrix
    place: Path
    mark: str = field(default_factory=lambda: secrets.token_hex(8))
    logs: int = 0

    @property
    def store(self):
        return self.place / "store"

    @property
    def cells(self):
        return self.place / "boards" / "storm" / "cells"

    def environment(self, **more):
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PLAD_BENCH_")}
        return {
            **kept,
            "STORM": self.mark,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
            "PLAD_BENCH_STORE": str(self.store),
            "PLAD_BENCH_BOARDS_DIR": str(self.place / "boards"),
            "OPENAI_API_KEY": "sk-storm",
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            **more,
        }

    def start(self, *more, **environment):
        """The command, begun; its output goes to a file."""
        self.place.mkdir(parents=True, exist_ok=True)
        self.logs += 1
        with (self.place / f"output-{self.logs}").open("wb") as output:
            return subprocess.Popen(
                [PROGRAM, *self.matrix.arguments(), *more],
                cwd=self.place,
                env=self.environment(**environment),
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait(self, driver):
        """The exit code; a hang is an error."""
        try:
            code = driver.wait(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            self.end_all()
            raise StormError(f"the command hung: {self.told()}") from None
        if "Traceback" in self.told() or code not in {0, 1, 3, 130, -signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT}:
            raise StormError(f"the command ended with {code}: {self.told()}")
        return code

    def told(self):
        """What the last command printed."""
        return (self.place / f"output-{self.logs}").read_text(errors="replace")

    # ------------------------------------------------------------------------------------------------- processes

    def processes(self):
        """Every process that the commands here have started and that is still there: pid -> parent's pid."""
        found = {}
        for path in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if path.name.isdigit() and f"STORM={self.mark}".encode() in (path / "environ").read_bytes().split(
                    b"\0"
                ):
                    state, parent = (path / "stat").read_text().rsplit(")", 1)[1].split()[:2]
                    if state != "Z":
                        found[int(path.name)] = int(parent)
        return found

    def workers(self, driver):
        """The processes that run stages: children of the fork server, which is the driver's."""
        every = self.processes()
        return [pid for pid, parent in every.items() if every.get(parent) == driver.pid]

    def fork_server(self, driver):
        """The process that workers are forked from; None if there is none now."""
        for pid, parent in self.processes().items():
            with contextlib.suppress(OSError):
                if parent == driver.pid and b"multiprocessing.forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    return pid
        return None

    def end_all(self):
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    # ---------------------------------------------------------------------------------------------------- promises

    def records(self):
        """All that the records of the board say but times and costs, with the files beside them, by cell."""
        found = {}
        for path in sorted(self.cells.rglob("*.json")):
            record = storage.read(path)
            for name in [name for name in record.counts if name.endswith(".retried_requests")]:
                del record.counts[name]  # what an endpoint was asked again is no result
            beside = {
                file.name: hashlib.sha256(file.read_bytes()).hexdigest()
                for file in path.parent.glob(f"{path.stem}.*")
                if file != path
            }
            found[record.cell] = json.dumps({"record": record.essence(), "beside": beside}, sort_keys=True)
        return found

    def finished(self):
        """The artifacts that are in place, by key, each with what tells it from one that is made anew."""
        return {path.name: path.stat().st_ino for path in Store(self.store).places()} if self.store.exists() else {}

    def leftovers(self):
        """What nobody will use any more."""
        hidden = [*self.store.glob("artifacts/*/.*"), *self.place.glob("boards/**/.*")]
        return [str(path.relative_to(self.place)) for path in (*hidden, *self.store.glob("partial/*"))]

    def check(self, undisturbed, *, kept=None, lost=()):
        """See that all promises were kept, after the command has run again.

        `kept` is what was finished before; all but `lost` of that must have been used and not made again.
        """
        Path(self.place / "checked").touch()
        mine, theirs = self.records(), undisturbed
        if mine.keys() != theirs.keys():
            raise StormError(f"other cells are recorded: {sorted(mine.keys() ^ theirs.keys())}")
        if differing := [cell for cell in mine if mine[cell] != theirs[cell]]:
            raise StormError(f"records differ: {differing[0]}\n{mine[differing[0]]}\n{theirs[differing[0]]}")
        now = self.finished()
        if again := [key for key, number in (kept or {}).items() if now.get(key) != number and key not in lost]:
            raise StormError(f"finished work was done again, or lost: {again}")
        for key in now:
            if Store(self.store).find(key) is None:
                raise StormError(f"a corrupt artifact was left: {key}")
        deadline = time.monotonic() + 60
        while (left := self.processes()) and time.monotonic() < deadline:
            time.sleep(0.1)
        if left:
            raise StormError(f"processes were left behind: {left}")
        if found := self.leftovers():
            raise StormError(f"files were left behind: {found}")


def undisturbed(matrix, place):
    """The records of a run that nothing disturbs, and how many seconds it took."""
    world, began = World(matrix, place), time.monotonic()
    driver = world.start()
    if world.wait(driver) != 0:
        raise StormError(f"an undisturbed run failed: {world.told()}")
    seconds = time.monotonic() - began
    world.check(found := world.records())
    if not found or any(json.loads(text)["record"]["status"] != "done" for text in found.values()):
        raise StormError(f"an undisturbed run is not whole: {found}")
    return found, seconds
