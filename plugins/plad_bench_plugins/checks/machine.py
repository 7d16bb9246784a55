"""Checks of the machine: processors, memory, GPUs and their driver."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from plad_bench import Check, Finding
from plad_bench.contract import machine

ENOUGH_MEMORY = 2e9
"""Twice the bytes of memory that a run of the demo needs."""

_QUERY = ["nvidia-smi", "--query-gpu=index,name,memory.total,driver_version", "--format=csv,noheader"]
_TORCH = "import torch; print(torch.version.cuda or 'none', torch.cuda.device_count())"


def processors() -> Iterator[Finding]:
    """The number of available processors, and the number of threads set for libraries."""
    usable = machine.processors()
    threads = os.environ.get("OMP_NUM_THREADS")
    told = f", OMP_NUM_THREADS={threads}" if threads else ""
    yield Finding(ok=True, message=f"{usable} available{told}; --workers x --threads should not exceed {usable}")


def memory() -> Iterator[Finding]:
    """The total memory, or the memory limit of the container."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()).isdigit():
        total = min(total, int(text))
    if total < ENOUGH_MEMORY:
        remedy = "Use a machine with 2 GB or more, or run with --workers 1."
        yield Finding(ok=True, message=f"only {total / 1e9:.1f} GB in total", remedy=remedy)
    else:
        yield Finding(ok=True, message=f"{total / 1e9:.1f} GB in total")


def gpus() -> Iterator[Finding]:
    """The GPUs, and whether torch can use them."""
    devices = sorted(Path("/dev").glob("nvidia[0-9]*"))
    try:
        shown = subprocess.run(_QUERY, capture_output=True, text=True, timeout=20, check=True).stdout
    except FileNotFoundError:
        if devices:
            remedy = "Install NVIDIA's driver utilities, or put nvidia-smi on PATH."
            yield Finding(ok=True, message=f"{len(devices)} GPUs, but no nvidia-smi", remedy=remedy)
        else:
            yield Finding(ok=True, message="none; runs use the CPU")
            return
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = (getattr(error, "stdout", "") or "").strip() or str(error)
        yield Finding(ok=False, message=f"nvidia-smi failed: {said}", remedy="Reinstall or reload the NVIDIA driver.")
        return
    else:
        for line in filter(None, shown.splitlines()):
            index, name, size, driver = (part.strip() for part in line.split(","))
            yield Finding(ok=True, message=f"{index}: {name}, {size}, driver {driver}")
    yield _torch_sees(len(devices))


def _torch_sees(devices: int) -> Finding:
    made = subprocess.run([sys.executable, "-c", _TORCH], capture_output=True, text=True, timeout=120, check=False)
    if made.returncode:
        reason = (made.stderr.strip().splitlines() or ["no reason given"])[-1]
        return Finding(ok=False, message=f"torch cannot be imported: {reason}", remedy="Install torch again.")
    cuda, count = made.stdout.split()[-2:]
    if cuda == "none":
        remedy = "Install torch's CUDA build, or run with --gpus none."
        return Finding(ok=False, message="this machine has GPUs, but torch is a CPU build", remedy=remedy)
    if int(count) < devices:
        remedy = "Check CUDA_VISIBLE_DEVICES and the driver version, or choose GPUs with --gpus."
        return Finding(ok=False, message=f"torch (CUDA {cuda}) sees {count} of {devices} GPUs", remedy=remedy)
    return Finding(ok=True, message=f"torch (CUDA {cuda}) sees {count}")


RECORDS = (
    Check(name="processors", summary="How many processors are available?", run=processors),
    Check(name="memory", summary="Is there enough memory?", run=memory),
    Check(name="gpus", summary="Which GPUs are available, and can torch use them?", run=gpus),
)
