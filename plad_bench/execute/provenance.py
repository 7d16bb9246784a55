"""Provenance of a result: code, packages, device and command, without paths, host names and secrets."""

from __future__ import annotations

import functools
import hashlib
import platform
import re
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import plad_bench

PACKAGES = ("plad-bench", "torch", "transformers", "tokenizers", "numpy", "rouge-score")
_PLACES = ("--store", "--boards-dir", "--launcher")
_COMPUTES = ("contract", "execute/stages", "learn", "plan")
"""The parts of the harness whose code can change a result."""


@functools.cache
def code_hash() -> str:
    """Hash of the code that can change a result: these parts and the built-in plugins."""
    root = Path(plad_bench.__file__).parent
    sources = [p for part in _COMPUTES for p in (root / part).rglob("*.py")]
    import plad_bench_plugins

    plugins = Path(plad_bench_plugins.__file__).parent
    digest = hashlib.sha256()
    for base, file in sorted([(root, f) for f in sources] + [(plugins, f) for f in plugins.rglob("*.py")]):
        digest.update(f"{file.relative_to(base).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


@functools.cache
def packages() -> dict[str, str]:
    """Versions of the packages that can change a result."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def today() -> str:
    """The date in UTC, YYYY-MM-DD."""
    return datetime.now(UTC).date().isoformat()


@functools.cache
def git() -> dict[str, Any]:
    """Commit of the checkout that the harness runs from, and whether it has changes; empty for a wheel."""
    root = Path(plad_bench.__file__).parent.parent
    if not (root / ".git").exists():
        return {}
    try:
        commit = _git(root, "rev-parse", "HEAD").strip()
        return {"commit": commit, "dirty": bool(_git(root, "status", "--porcelain", "--", "plad_bench", "plugins"))}
    except (OSError, subprocess.CalledProcessError):
        return {}


def device_name(device: str) -> str:
    """The model name of the stage's device."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    found = re.search(r"model name\s*:\s*(.+)", text)
    return found[1].strip() if found else platform.machine()


def command(arguments: Sequence[str]) -> str:
    """A command line without what is local: --store, --boards-dir, --launcher, hosts and directories."""
    import shlex

    kept: list[str] = []
    given = iter(arguments)
    for argument in given:
        if argument in _PLACES:
            next(given, None)
        elif not argument.startswith(tuple(f"{option}=" for option in _PLACES)):
            kept.append(argument)
    shown = [
        re.sub(r"(?<![\w.])(?:~|\.{1,2})?/(?:[^\s,|\]'\"]*/)*([^\s,|\]'\"/]*)", r"\1", a) for a in without_hosts(kept)
    ]
    return shlex.join(["plad-bench", *shown])


def without_hosts(arguments: Sequence[str]) -> list[str]:
    """A command line with ADDRESS in place of every server's address, which no file may hold."""
    return [re.sub(r"\bhttps?://[^\s,|\]'\"]*", "ADDRESS", argument) for argument in arguments]


def _git(root: Path, *arguments: str) -> str:
    return subprocess.run(["git", "-C", str(root), *arguments], capture_output=True, text=True, check=True).stdout
