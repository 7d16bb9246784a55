"""Properties of this machine."""

from __future__ import annotations

import os


def processors() -> int:
    """Number of processors that this process may use; it can be smaller than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
