"""The local launcher: slots on this machine, one for a stage, or several that share a training.

CPU slots fork from a server process that has torch imported, so a stage starts in tens of milliseconds; nothing
parallel runs in the server before the fork. GPU slots start a fresh interpreter that sees one device. Either kind
exits when its driver is gone, however that ended.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from multiprocessing import forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

from plad_bench import Launcher, LauncherSession, LaunchOptions, Params, StageProcess
from plad_bench.contract import machine
from plad_bench_plugins.launchers._together import Together

_NO_EXIT_CODE = 255
"""What multiprocessing reports of a child whose fork server is gone."""


class LocalSession(LauncherSession):
    """Slots on this machine."""

    preload = "plad_bench_plugins.launchers._preload"
    """The module that the fork server imports before it forks."""

    def __init__(self, options: LaunchOptions) -> None:
        self.gpus = options.gpus
        self.slots = room(options)
        self.device = "cuda:0" if options.gpus else "cpu"
        self._running: list[StageProcess] = []
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        if not self.gpus:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([self.preload])

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Fork, or start, a worker for each slot."""
        process = Together([self._worker(job, log, slot, rank) for rank, slot in enumerate(slots)])
        self._running = [p for p in self._running if p.poll() is None] + [process]
        return process

    def _worker(self, job: Path, log: Path, slot: int, rank: int) -> StageProcess:
        if self.gpus:
            return _Fresh(job, log, rank, self.gpus[slot])
        return _Forked(self._context, job, log, rank)

    def close(self) -> None:
        """Kill what runs."""
        for process in self._running:
            process.kill()


class _Forked(StageProcess):
    def __init__(self, context: multiprocessing.context.ForkServerContext, job: Path, log: Path, rank: int) -> None:
        _see_descriptors()
        _start_fork_server()
        reader, self._alive = context.Pipe(duplex=False)
        self._process: ForkServerProcess = context.Process(
            target=_child, args=(str(job), str(log), str(rank), reader), daemon=True
        )
        self._process.start()
        reader.close()

    def poll(self) -> int | None:
        code = self._process.exitcode
        if code != _NO_EXIT_CODE:
            return code
        # The fork server was killed, and nobody hears any more how this worker ends: it must not go on unseen.
        self.kill()
        return -signal.SIGKILL

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._alive.close()  # its other end is the worker's, which exits when this one closes


class _Fresh(StageProcess):
    def __init__(self, job: Path, log: Path, rank: int, gpu: int) -> None:
        self._process = fresh(job, log, rank, {"CUDA_VISIBLE_DEVICES": visible(gpu)})

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


def _see_descriptors() -> None:
    """See that a worker can be started: the fork server does not survive a driver that fails in the middle of it.

    Raises:
        OSError: if this process may open too few more files.
    """
    with contextlib.ExitStack() as opened:
        for _ in range(16):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _start_fork_server() -> None:
    """See that the fork server runs, deaf to Ctrl-C, which a terminal sends to all and the driver alone answers.

    It keeps the mask under which it begins. The resource tracker, which changes the mask, begins before.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def room(options: LaunchOptions) -> int:
    """How many slots this machine has."""
    return len(options.gpus) or options.workers or max(1, machine.processors() // options.threads)


def visible(gpu: int) -> str:
    """CUDA_VISIBLE_DEVICES for one of the GPUs that the driver sees, which may be some of the machine's."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return own[gpu] if any(own) else str(gpu)


def fresh(job: Path, log: Path, rank: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker in an interpreter of its own, which ends when this process does."""
    with log.open("ab") as stream:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "plad_bench_plugins.launchers.local", str(job), str(rank)],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=stream,
            env={**os.environ, **environment},
            start_new_session=True,
        )


def _child(job: str, log: str, rank: str, alive: Connection) -> None:
    """In the forked process: output to the log, no interest in Ctrl-C, death with the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(log).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    _die_with(alive)
    from plad_bench.execute import worker

    raise SystemExit(worker.main(job, rank))


def _die_with(pipe: Connection | IO[bytes]) -> None:
    """End this process at once when the other end of the pipe is closed."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            # Not pipe.read(), whose lock a process that ends meanwhile would find taken, and abort.
            os.read(pipe.fileno(), 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


RECORDS = (
    Launcher(
        name="local",
        summary="Slots on this machine: GPUs, or shares of its CPU cores.",
        params=Params,
        open=lambda params, options: LocalSession(options),
    ),
)

if __name__ == "__main__":
    _die_with(sys.stdin.buffer)
    from plad_bench.execute import worker

    raise SystemExit(worker.main(*sys.argv[1:]))
