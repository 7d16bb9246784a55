"""Checks of plad-bench itself: plugins, hooks, environment variables, and the directories that it writes to."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plad_bench.cli.environment import empty, mistyped
from plad_bench.conformance.plugins import heavy_imports, uncalled, unknown_hooks
from plad_bench.contract.components import Check, Finding
from plad_bench.contract.registry import KINDS

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry

LITTLE_DISK = 2e9
"""Free bytes below which a run is likely to fill the disk."""


def own_checks(context: click.Context, registry: Registry, store: Path, boards: Path) -> list[Check]:
    """The checks that need the state of the command line."""
    for kind in KINDS:
        registry.components(kind)  # calls the hooks, so that broken ones are found
    return [
        Check(name="store", summary="Is the store writable?", run=lambda: [_place(store, "artifacts", "--store")]),
        Check(
            name="boards",
            summary="Is the directory of boards writable?",
            run=lambda: [_place(boards, "boards", "--boards-dir")],
        ),
        Check(name="plugins", summary="Do all plugins load, and quickly?", run=lambda: _plugins(registry)),
        Check(name="hooks", summary="Do all hooks of plugins exist?", run=lambda: _hooks(registry)),
        Check(
            name="variables",
            summary="Are all PLAD_BENCH_ environment variables known?",
            run=lambda: _variables(context),
        ),
    ]


def _place(path: Path, what: str, option: str) -> Finding:
    existing = next(p for p in (path.absolute(), *path.absolute().parents) if p.exists())
    remedy = f"Make it writable, or choose another directory with {option}."
    if not existing.is_dir():
        return Finding(ok=False, message=f"{what} are stored in {path}, but {existing} is a file", remedy=remedy)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(
            ok=False, message=f"{what} are stored in {path}, which is not writable: {error.strerror}", remedy=remedy
        )
    free = shutil.disk_usage(existing).free
    remedy = f"Free some space, for example with `plad-bench cache prune`, or choose another directory with {option}."
    return Finding(
        ok=True, message=f"{what} are stored in {path}, {free / 1e9:.0f} GB free", remedy=remedy * (free < LITTLE_DISK)
    )


def _plugins(registry: Registry) -> Iterator[Finding]:
    for broken in registry.broken:
        message = f"{broken.origin.distribution} ({broken.origin.plugin}) is broken: {broken.cause}"
        yield Finding(ok=False, message=message, remedy="Fix or uninstall it.")
    for kind in KINDS:
        for name, found in registry.components(kind).items():
            if len(found) > 1:
                both = " and ".join(r.origin.distribution for r in found)
                yield Finding(
                    ok=False, message=f"{kind} {name} is registered twice, by {both}", remedy="Uninstall one of them."
                )
    names = ", ".join(f"{o.plugin} ({o.distribution})" for o in registry.origins.values())
    yield Finding(ok=True, message=f"{len(registry.origins)} loaded: {names}")
    yield from (finding for _, finding in heavy_imports(registry, {o.plugin for o in registry.origins.values()}))


def _hooks(registry: Registry) -> Iterator[Finding]:
    wrong = list(unknown_hooks(registry))
    for plugin, name, near in wrong:
        message = f"{plugin} implements {name}, which is not a hook"
        yield Finding(
            ok=False, message=message, remedy=f"Did you mean {near}?" if near else "See docs/plugins.md for the hooks."
        )
    silent = list(uncalled(registry))
    for plugin, problem in silent:
        yield Finding(
            ok=False, message=f"{plugin}: {problem}", remedy="Decorate the function with @plad_bench.hookimpl."
        )
    if not wrong and not silent:
        yield Finding(ok=True, message="all exist")


def _variables(context: click.Context) -> Iterator[Finding]:
    wrong, blank = mistyped(context, os.environ), empty(os.environ)
    for name, remedy in wrong:
        yield Finding(ok=True, message=f"{name} is not a known variable", remedy=remedy)
    for name in blank:
        yield Finding(ok=False, message=f"{name} is empty", remedy="Set a value or unset it.")
    if not wrong and not blank:
        yield Finding(ok=True, message="all are known")
