"""Where a benchmark finds the project on a machine on which it is not installed: this checkout."""

from __future__ import annotations

import importlib.metadata
import os
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def environment(work: Path) -> dict[str, str]:
    """What the project's own processes are started with, so that they are this checkout's."""
    paths = [str(ROOT), str(ROOT / "plugins")]
    try:
        importlib.metadata.distribution("plad-bench")
    except importlib.metadata.PackageNotFoundError:
        about = work / "installed" / "plad_bench-0.dist-info"
        about.mkdir(parents=True, exist_ok=True)
        version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
        (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: plad-bench\nVersion: {version}\n")
        (about / "entry_points.txt").write_text("[plad_bench]\nbuiltin = plad_bench_plugins\n")
        paths.append(str(about.parent))
    paths += filter(None, [os.environ.get("PYTHONPATH")])
    offline = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    return {**os.environ, **offline, "PYTHONPATH": os.pathsep.join(paths)}
