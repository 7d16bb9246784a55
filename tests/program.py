"""The installed program, run in a directory of a test."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = [str(Path(sys.executable).with_name("plad-bench"))]


def plad_bench(*arguments, cwd, timeout=600, **environment):
    """Run the program in a directory, with a store of that directory."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        cwd=cwd,
        env={**os.environ, "PLAD_BENCH_STORE": str(Path(cwd) / "store"), "COLUMNS": "160", **environment},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
