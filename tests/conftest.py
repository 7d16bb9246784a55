"""What every test needs: one thread, no network by accident, no variable of the user's, helpers importable."""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
for name in [name for name in os.environ if name.startswith("PLAD_BENCH_")]:
    del os.environ[name]  # an exported option would reach every command that a test runs
sys.path.insert(0, str(Path(__file__).parent))
