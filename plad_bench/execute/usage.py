"""What a stage costs while it runs: device time, processor time and energy."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from plad_bench.contract.machine import processor_seconds
from plad_bench.execute import energy

if TYPE_CHECKING:
    from plad_bench.execute.accounting import Attempt

SAVE_EVERY = 1.0
"""Seconds between two updates of an attempt's file."""


@dataclass
class Usage:
    """The costs of a stage since this object was made, those of all its ranks together."""

    device: str = "cpu"
    threads: int = 1
    ranks: int = 1
    attempt: Attempt | None = None
    """Where the costs so far are saved; None for a rank after the first."""
    _began: float = field(default_factory=time.perf_counter)
    _processor: float = field(default_factory=processor_seconds)
    _startup: float | None = None
    """Watt-hours until the models were loaded."""
    _saved: float = float("-inf")

    def __post_init__(self) -> None:
        self._meter = energy.meter(self.device)
        self.save()

    def loaded(self) -> None:
        """Mark the end of the start-up: from here on the models work."""
        self._startup = self._energy()

    @property
    def seconds(self) -> float:
        """Wall-clock seconds."""
        return time.perf_counter() - self._began

    @property
    def cost(self) -> dict[str, float]:
        """Device-seconds, processor-seconds and, where it is measured, energy in watt-hours, as in a manifest.

        On a CPU, device-seconds are the processor time of a slot's thread: other work on the machine does not count.
        """
        processor = processor_seconds() - self._processor
        busy = processor / self.threads if self.device == "cpu" else self.seconds
        cost = {"device_seconds": busy * self.ranks, "processor_seconds": processor * self.ranks}
        if (whole := self._energy()) is not None:
            startup = self._startup or 0.0
            cost |= {"energy_wh": (whole - startup) * self.ranks, "startup_energy_wh": startup * self.ranks}
        return cost

    def save(self, *, last: bool = False) -> None:
        """Save the costs so far, at most once a second except for the last time."""
        now = time.monotonic()
        if self.attempt is not None and (last or now - self._saved >= SAVE_EVERY):
            self._saved = now
            self.attempt.update(self.cost)

    def _energy(self) -> float | None:
        """Watt-hours since the beginning, for one rank."""
        return None if self._meter is None else self._meter.watt_hours()
