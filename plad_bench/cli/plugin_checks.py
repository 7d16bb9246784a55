"""Checks of plad-bench's own state: plugins, hooks, variables of the environment, the places it writes to."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.environment import empty, mistyped
from plad_bench.contract.components import Check, Finding
from plad_bench.contract.registry import GROUP, KINDS
from plad_bench.contract.suggestions import near_matches

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry

_HEAVY = ("torch", "transformers", "datasets", "vllm", "ray", "matplotlib")
_PROBE = """
import importlib, json, runpy, sys, time
kind, what, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
import plad_bench.contract.registry
began = time.perf_counter()
importlib.import_module(what) if kind == "module" else runpy.run_path(what)
print("\\n" + json.dumps([time.perf_counter() - began, [n for n in names if n in sys.modules]]))
"""
"""Imports a plugin alone, in a fresh interpreter: in one that has run for a while somebody else may have paid."""

LITTLE_DISK = 2e9
"""Free bytes below which a run is likely to end early."""


def own_checks(context: click.Context, registry: Registry, store: Path, boards: Path) -> list[Check]:
    """The checks that need to know what this command line knows."""
    for kind in KINDS:
        registry.components(kind)  # so that what is broken in their hooks shows
    return [
        Check(name="store", summary="Can artifacts be kept?", run=lambda: [_place(store, "artifacts", "--store")]),
        Check(name="boards", summary="Can boards be kept?", run=lambda: [_place(boards, "boards", "--boards-dir")]),
        Check(name="plugins", summary="Are all plugins whole, and light?", run=lambda: _plugins(registry)),
        Check(name="hooks", summary="Is every hook of a plugin one that exists?", run=lambda: _hooks(registry)),
        Check(name="variables", summary="Is every PLAD_BENCH_ variable read?", run=lambda: _variables(context)),
    ]


def _place(path: Path, what: str, option: str) -> Finding:
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    remedy = f"Make it writable, or choose another place with {option}."
    if not existing.is_dir():
        return Finding(ok=False, message=f"{what} go to {path}, but {existing} is a file", remedy=remedy)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            ok=False, message=f"{what} go to {path}, which cannot be written: {error.strerror}", remedy=remedy
        )
    free = shutil.disk_usage(existing).free
    remedy = f"Free some space, or choose another place with {option}; see `plad-bench cache prune`."
    return Finding(
        ok=True, message=f"{what} go to {path}, {free / 1e9:.0f} GB free", remedy=remedy * (free < LITTLE_DISK)
    )


def _plugins(registry: Registry) -> Iterator[Finding]:
    for broken in registry.broken:
        message = f"{broken.origin.distribution} ({broken.origin.plugin}) is broken: {broken.cause}"
        yield Finding(ok=False, message=message, remedy="Repair or uninstall it.")
    for kind in KINDS:
        for name, found in registry.components(kind).items():
            if len(found) > 1:
                both = " and ".join(r.origin.distribution for r in found)
                yield Finding(
                    ok=False, message=f"{kind} {name} is registered twice, by {both}", remedy="Uninstall one of them."
                )
    names = ", ".join(f"{o.plugin} ({o.distribution})" for o in registry.origins.values())
    yield Finding(ok=True, message=f"{len(registry.origins)} loaded: {names}")
    yield from (finding for _, finding in weights(registry, {o.plugin for o in registry.origins.values()}))


def weights(registry: Registry, names: set[str]) -> Iterator[tuple[str, Finding]]:
    """A warning for each plugin of these names that imports what every command would then wait for."""
    for entry in entry_points(group=GROUP):
        if entry.name in names and entry.dist is not None and entry.dist.name != "plad-bench":
            yield from _weight(entry.name, "module", entry.module)
    for file in registry.files:
        if file.stem in names:
            yield from _weight(file.stem, "file", str(file))


def _weight(name: str, kind: str, what: str) -> Iterator[tuple[str, Finding]]:
    """Its errors are told elsewhere."""
    command = [sys.executable, "-c", _PROBE, kind, what, ",".join(_HEAVY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    if made.returncode:
        return
    seconds, heavy = json.loads(made.stdout.splitlines()[-1])
    if heavy:
        message = f"{name} imports {' and '.join(heavy)} at the top: every command waits {seconds:.1f} s for that"
        yield name, Finding(ok=True, message=message, remedy="Import them inside the functions that need them.")


def unknown_hooks(registry: Registry) -> Iterator[tuple[str, str, str]]:
    """(plugin, hook, what was meant) for each implementation of a hook that does not exist."""
    hooks: dict[str, Any] = {n: h for n, h in vars(registry.manager.hook).items() if not n.startswith("_")}
    existing = [name for name, hook in hooks.items() if hook.has_spec()]
    for name, hook in hooks.items():
        for impl in [] if hook.has_spec() else hook.get_hookimpls():
            if not impl.optionalhook:
                yield impl.plugin_name, name, " or ".join(near_matches(name, existing))


def uncalled(registry: Registry) -> Iterator[tuple[str, str]]:
    """(plugin, why) for each plugin that implements no hook, and each function that lacks its @hookimpl."""
    manager = registry.manager
    hooks = {n for n, h in vars(manager.hook).items() if not n.startswith("_") and h.has_spec()}
    for plugin, module in manager.list_name_plugin():
        if module is None:
            continue
        unmarked = [
            name
            for name in sorted(hooks)
            if hasattr(module, name) and manager.parse_hookimpl_opts(module, name) is None
        ]
        for name in unmarked:
            yield plugin, f"{name} has no @hookimpl, so nothing calls it"
        if not unmarked and not manager.get_hookcallers(module):
            yield plugin, f"no function has @hookimpl, so nothing calls it; the hooks are {', '.join(sorted(hooks))}"


def _hooks(registry: Registry) -> Iterator[Finding]:
    wrong = list(unknown_hooks(registry))
    for plugin, name, near in wrong:
        message = f"{plugin} has {name}, which is no hook, so nothing calls it"
        yield Finding(ok=False, message=message, remedy=f"Did you mean {near or 'one of docs/plugins.md'}?")
    silent = list(uncalled(registry))
    for plugin, problem in silent:
        yield Finding(ok=False, message=f"{plugin}: {problem}", remedy="Put @plad_bench.hookimpl above the function.")
    if not wrong and not silent:
        yield Finding(ok=True, message="all exist")


def _variables(context: click.Context) -> Iterator[Finding]:
    wrong, blank = mistyped(context, os.environ), empty(os.environ)
    for name, remedy in wrong:
        yield Finding(ok=True, message=f"nothing reads {name}", remedy=remedy)
    for name in blank:
        yield Finding(ok=False, message=f"{name} is empty", remedy="Give it a value, or unset it.")
    if not wrong and not blank:
        yield Finding(ok=True, message="all are read")
