"""What benchmarks share: the project's code, where it is not installed, and the warnings that it logs."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler
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


@contextmanager
def warnings_after() -> Iterator[None]:
    """Print what the project warns of within, such as parts that were not compiled, once its figures are printed."""
    kept = BufferingHandler(10_000)
    kept.setLevel(logging.WARNING)
    logger = logging.getLogger("plad_bench")
    logger.addHandler(kept)
    try:
        yield
    finally:
        logger.removeHandler(kept)
        said = dict.fromkeys(record.getMessage() for record in kept.buffer)
        if said:
            print("\nWarnings:\n\n" + "\n".join(f"- {text}" for text in said), flush=True)
