"""Measures energy: of a GPU by the driver's counter (NVML), of processors by the kernel's (RAPL). Nothing is estimated.

A GPU's counter covers everything on the GPU. The processors' counters cover the whole machine: a stage gets the share
of its processor time in that of all processes, so stages that run at the same time share the energy between them.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from plad_bench.contract.machine import processor_seconds

POWERCAP, STAT = Path("/sys/class/powercap"), Path("/proc/stat")
JOULES_PER_WH = 3600.0
TICKS = 100.0
"""Ticks per second of /proc/stat."""


class Meter(Protocol):
    """Measures energy from the moment it is made."""

    def watt_hours(self) -> float:
        """Watt-hours so far."""


class Nvml:
    """The energy of one GPU, which the driver counts in millijoules."""

    def __init__(self, counter: Callable[[], int]) -> None:
        self._counter, self._began = counter, counter()

    def watt_hours(self) -> float:
        """Watt-hours so far."""
        return (self._counter() - self._began) / 1000 / JOULES_PER_WH


class Rapl:
    """This process's share of the energy of the processor packages, which the kernel counts in microjoules."""

    def __init__(self, powercap: Path = POWERCAP, stat: Path = STAT, own: Callable[[], float] | None = None) -> None:
        """Begin to measure.

        Args:
            powercap: directory of the kernel's counters.
            stat: file with the processor time of the machine.
            own: gives the processor seconds of this process.

        Raises:
            OSError: if there are no counters, or they cannot be read.
        """
        self._packages = [p for p in sorted(powercap.glob("intel-rapl:*")) if p.name.count(":") == 1 and _package(p)]
        if not self._packages:
            raise FileNotFoundError(powercap / "intel-rapl:*")
        self._ranges = [_number(package / "max_energy_range_uj") for package in self._packages]
        self._stat, self._own = stat, own or processor_seconds
        self._joules, self._last = 0.0, self._read()

    def watt_hours(self) -> float:
        """Watt-hours so far. To be called more often than a counter wraps around, which takes many minutes."""
        counters, busy, own = self._read()
        before, busy_before, own_before = self._last
        steps = [(now - then) % limit for now, then, limit in zip(counters, before, self._ranges, strict=True)]
        worked, all_worked = own - own_before, busy - busy_before
        if worked > 0:
            self._joules += sum(steps) / 1e6 * worked / max(worked, all_worked)
            self._last = counters, busy, own
        return self._joules / JOULES_PER_WH

    def _read(self) -> tuple[list[int], float, float]:
        """Microjoules of each package, and processor seconds of the machine and of this process."""
        user, nice, system, _idle, _iowait, irq, softirq, steal = map(
            int, self._stat.read_text(encoding="ascii").split("\n", 1)[0].split()[1:9]
        )
        busy = (user + nice + system + irq + softirq + steal) / TICKS
        return [_number(package / "energy_uj") for package in self._packages], busy, self._own()


def meter(device: str) -> Meter | None:
    """A meter for a stage on a device, such as "cuda:0"; None if its energy cannot be measured."""
    try:
        return Nvml(_counter(device)) if device.startswith("cuda") else Rapl()
    except Exception:  # noqa: BLE001  without the package, the permission or a counter, energy is not measured
        return None


def _counter(device: str) -> Callable[[], int]:
    """What reads the energy counter of a GPU, in millijoules.

    Raises:
        ImportError: without the package nvidia-ml-py.
        pynvml.NVMLError: if the GPU has no counter.
    """
    import pynvml
    import torch

    pynvml.nvmlInit()
    # By its UUID: the numbers of NVML ignore CUDA_VISIBLE_DEVICES.
    handle: Any = pynvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")
    return lambda: int(pynvml.nvmlDeviceGetTotalEnergyConsumption(handle))


def _package(directory: Path) -> bool:
    """Whether a counter is that of a whole package; the counter of the platform (psys) would count packages twice."""
    return (directory / "name").read_text(encoding="ascii").startswith("package")


def _number(file: Path) -> int:
    return int(file.read_text(encoding="ascii"))
