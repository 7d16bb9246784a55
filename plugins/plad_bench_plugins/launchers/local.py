"""The local launcher: slots on this machine. A stage runs in one slot, and a training can use several.

Processes of CPU slots are forked from a server process that has torch imported, so that a stage starts in tens of
milliseconds; the server runs no other threads. GPU slots start a new interpreter with one visible device. Both exit
when the driver process ends.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import IO

from plad_bench import Launcher, LauncherSession, LaunchOptions, Params, StageProcess
from plad_bench.contract import machine
from plad_bench_plugins.launchers._together import Together

_NO_EXIT_CODE = 255
"""The exit code that multiprocessing reports if the fork server has died."""


class LocalSession(LauncherSession):
    """Slots on this machine."""

    preload = "plad_bench_plugins.launchers._preload"
    """The module that the fork server imports before it forks."""

    def __init__(self, options: LaunchOptions) -> None:
        self.gpus = options.gpus
        self.slots = room(options)
        self.device = "cuda:0" if options.gpus else "cpu"
        self._running: list[StageProcess] = []
        self._awaited: list[_Forked] = []
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        os.environ["TOKENIZERS_PARALLELISM"] = "false"
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo0" if sys.platform == "darwin" else "lo")
        if not self.gpus:
            self._context = multiprocessing.get_context("forkserver")
            self._context.set_forkserver_preload([self.preload])

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Start a worker in each slot."""
        process = Together([self._worker(job, log, slot, rank) for rank, slot in enumerate(slots)])
        self._running = [p for p in self._running if p.poll() is None] + [process]
        return process

    def _worker(self, job: Path, log: Path, slot: int, rank: int) -> StageProcess:
        if self.gpus:
            return _Fresh(job, log, rank, self.gpus[slot])
        worker = _Forked(self._context, job, log, rank)
        self._awaited.append(worker)
        return worker

    def wait(self, seconds: float) -> None:
        """Return as soon as a forked worker ends, which costs no processor time while none does."""
        if self.gpus:
            super().wait(seconds)
            return
        ended = connection.wait([worker.ended for worker in self._awaited], seconds)
        self._awaited = [worker for worker in self._awaited if worker.ended not in ended]

    def close(self) -> None:
        """Kill all running stages."""
        for process in self._running:
            process.kill()


class _Forked(StageProcess):
    def __init__(self, context: multiprocessing.context.ForkServerContext, job: Path, log: Path, rank: int) -> None:
        _see_descriptors()
        reader, self._alive = context.Pipe(duplex=False)
        self._process = _forked(context, (str(job), str(log), str(rank), reader))
        reader.close()
        self.ended = self._process.sentinel
        """A file descriptor that can be read once the process has ended."""

    def poll(self) -> int | None:
        code = self._process.exitcode
        if code != _NO_EXIT_CODE:
            return code
        # The fork server was killed, so this worker's exit code is lost, and the worker must not continue unobserved.
        self.kill()
        return -signal.SIGKILL

    def kill(self) -> None:
        self._process.kill()
        self._process.join()
        self._alive.close()  # the worker holds the other end and exits when this one closes


class _Fresh(StageProcess):
    def __init__(self, job: Path, log: Path, rank: int, gpu: int) -> None:
        self._process = fresh(job, log, rank, {"CUDA_VISIBLE_DEVICES": visible(gpu)})

    def poll(self) -> int | None:
        return self._process.poll()

    def kill(self) -> None:
        self._process.kill()
        self._process.communicate()  # closes its standard input, and waits


def _forked(context: multiprocessing.context.ForkServerContext, args: tuple[object, ...]) -> ForkServerProcess:
    """A process that the fork server started.

    A server that was killed a moment ago accepts no connection although the system still counts it as running. The
    first sign of its death is that its workers end, so a worker is often started again in that moment.

    Raises:
        ConnectionError, EOFError: if no server could be reached for ten seconds.
    """
    until = time.monotonic() + 10
    while True:
        _start_fork_server()
        process = context.Process(target=_child, args=args, daemon=True)
        try:
            process.start()
        except (ConnectionError, EOFError):
            if time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return process


def _see_descriptors() -> None:
    """Check that there are enough file descriptors to start a worker; a failed start would kill the fork server.

    Raises:
        OSError: if this process cannot open enough files.
    """
    with contextlib.ExitStack() as opened:
        for _ in range(16):
            opened.callback(os.close, os.open(os.devnull, os.O_RDONLY))


def _start_fork_server() -> None:
    """Start the fork server with SIGINT blocked, because only the driver process handles Ctrl-C.

    The server keeps the signal mask at its start. The resource tracker, which changes the mask, must start first.
    """
    resource_tracker.ensure_running()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        forkserver.ensure_running()
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def room(options: LaunchOptions) -> int:
    """The number of slots on this machine."""
    return len(options.gpus) or options.workers or max(1, machine.processors() // options.threads)


def visible(gpu: int) -> str:
    """The value of CUDA_VISIBLE_DEVICES for one of the GPUs that are visible to this process."""
    own = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    return own[gpu] if any(own) else str(gpu)


def fresh(job: Path, log: Path, rank: int, environment: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a worker in a new interpreter, which exits when this process ends."""
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
    """Run in the forked process: redirect output to the log, ignore Ctrl-C, and exit with the driver process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with Path(log).open("ab", buffering=0) as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    _die_with(alive)
    from plad_bench.execute import worker

    raise SystemExit(worker.main(job, rank))


def _die_with(pipe: Connection | IO[bytes]) -> None:
    """Exit this process as soon as the other end of the pipe is closed."""

    def watch() -> None:
        with contextlib.suppress(OSError):
            # Not pipe.read(), whose lock would still be held when the process exits and make it abort.
            os.read(pipe.fileno(), 1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


RECORDS = (
    Launcher(
        name="local",
        summary="Slots on this machine: GPUs, or groups of CPU cores.",
        params=Params,
        open=lambda params, options: LocalSession(options),
    ),
)

if __name__ == "__main__":
    _die_with(sys.stdin.buffer)
    from plad_bench.execute import worker

    raise SystemExit(worker.main(*sys.argv[1:]))
