"""What a launcher provides: slots on a device, and processes in them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What a launcher is told."""

    workers: int | None
    """CPU slots; None: as many as there is room for."""
    threads: int
    """Of a slot."""
    gpus: tuple[int, ...]
    """Indices of this machine's GPUs to use; empty: CPU."""
    store: Path
    """Where jobs and results lie. Every slot must see it."""


class LauncherSession:
    """An open launcher: a fixed number of slots. A stage runs in one of them or in several, a clean process in each."""

    slots: int
    device: str
    """The device a stage sees: cpu or cuda:0."""

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Start `plad_bench.execute.worker` on a job file in each slot, as ranks 0, 1, ... of one stage.

        Their output goes to `log`. The stage ends with rank 0, and no rank outlives it; a rank that fails ends it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop whatever runs."""
        raise NotImplementedError


class StageProcess:
    """A running stage."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it now."""
        raise NotImplementedError
