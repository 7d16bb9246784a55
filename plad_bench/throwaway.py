"""A run of somebody's plugin on the tiny task, in directories that are thrown away, as a user would start it."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from plad_bench import tiny

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

    from plad_bench.leaderboard.board import Board

_SHIM = """from importlib import import_module

globals().update({{n: v for n, v in vars(import_module({name!r})).items() if n.startswith("plad_bench_")}})
"""
"""A plugin file with the hooks of a module that no installed package names as a plugin."""
_BOARD = "throwaway"


def run(plugin: ModuleType, store: Path, boards: Path, options: dict[str, Any]) -> Board:
    """Execute `plad-bench run` with a plugin in a process of its own, and read the board.

    Args:
        plugin: its module; one that no installed package names as a plugin is loaded with `-p`.
        store: directory of artifacts. What another run left there is used.
        boards: directory that the board is made in.
        options: those of `run`, by name: `{"methods": "my-method", "seeds": 2, "controls": True}`. The task is
            `tiny-task` unless given.

    Raises:
        AssertionError: if the command fails; the message has what it printed.
    """
    from plad_bench.conformance.plugins import installed_as
    from plad_bench.leaderboard.loading import load

    files = [tiny.__file__] if installed_as(plugin) else [tiny.__file__, _shim(plugin, boards)]
    named = {"task": tiny.TASK.name, **options}
    command = [sys.executable, "-m", "plad_bench", *(part for file in files for part in ("-p", str(file))), "run"]
    for name, value in named.items():
        option = f"--{name.replace('_', '-')}"
        command.append(option if value is True else f"{option}={value}")
    command += [f"--store={store}", f"--boards-dir={boards}", f"--board={_BOARD}"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PLAD_BENCH_")}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, sys.path))
    made = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if made.returncode:
        msg = f"{' '.join(command[1:])} ended with exit code {made.returncode}:\n{made.stdout}{made.stderr}"
        raise AssertionError(msg)
    return load(boards / _BOARD)


def _shim(plugin: ModuleType, directory: Path) -> Path:
    file = directory / f"{plugin.__name__.replace('.', '_')}_hooks.py"
    file.write_text(_SHIM.format(name=plugin.__name__), encoding="utf-8")
    return file
