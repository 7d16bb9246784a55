"""What this machine has."""

from __future__ import annotations

import os


def processors() -> int:
    """How many processors this process may use, which are fewer than the machine's where it is bound to some."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
