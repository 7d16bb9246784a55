"""The interface of launchers: slots on a device, and processes in them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """Options of a launcher."""

    workers: int | None
    """Number of CPU slots; None for as many as fit."""
    threads: int
    """Threads per slot."""
    gpus: tuple[int, ...]
    """Indices of the GPUs to use on this machine; empty for the CPU."""
    store: Path
    """Directory of jobs and results, which all slots must be able to access."""


class LauncherSession:
    """An open launcher with a fixed number of slots. A stage runs in one or more slots, with a new process in each."""

    slots: int
    device: str
    """The device as stages see it: cpu or cuda:0."""

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Start `plad_bench.execute.worker` on a job file in each slot, as ranks 0, 1, ... of one stage.

        Their output goes to `log`. The stage ends when rank 0 ends, which ends the other ranks, or when any rank fails.
        """
        raise NotImplementedError

    def wait(self, seconds: float) -> None:
        """Return once a stage may have ended, and after so many seconds at most; by default after a fiftieth of one."""
        time.sleep(min(seconds, 0.02))

    def close(self) -> None:
        """Stop all running stages."""
        raise NotImplementedError


class StageProcess:
    """A running stage."""

    def poll(self) -> int | None:
        """The exit code, negative if killed by a signal; None while running."""
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the stage."""
        raise NotImplementedError
