"""Claims about a whole plugin: that it loads quickly, and that all its hooks are called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any

from plad_bench.conformance.claims import Verdict
from plad_bench.conformance.components import verdicts
from plad_bench.contract.components import Finding
from plad_bench.contract.registry import GROUP, KINDS, PluginOrigin, Registry
from plad_bench.contract.suggestions import near_matches

if TYPE_CHECKING:
    from types import ModuleType

_HEAVY = ("torch", "transformers", "datasets", "vllm", "ray", "matplotlib")
_PROBE = """
import importlib, json, runpy, sys, time
kind, what, names = sys.argv[1], sys.argv[2], sys.argv[3].split(",")
import plad_bench.contract.registry
began = time.perf_counter()
importlib.import_module(what) if kind == "module" else runpy.run_path(what)
print("\\n" + json.dumps([time.perf_counter() - began, [n for n in names if n in sys.modules]]))
"""
"""Imports one plugin in a new interpreter, because other code may already have imported its modules in this one."""


@dataclass(frozen=True)
class Checked:
    """A verdict on a component or on a whole plugin."""

    kind: str
    """Kind of the component, or "plugin"."""
    name: str
    verdict: Verdict


def check(registry: Registry, names: Iterable[str]) -> list[Checked]:
    """All verdicts on the named plugins of a registry and on their components."""
    wanted = set(names)
    for kind in KINDS:
        registry.components(kind)  # so that what is broken in their hooks shows
    return [*_of_plugins(registry, wanted), *_of_components(registry, wanted)]


def check_module(module: ModuleType) -> list[Checked]:
    """All verdicts on a plugin module, whether its package is installed or not."""
    registry = Registry.load()
    names = installed_as(module)
    if not names:
        registry.add(PluginOrigin(module.__name__, "not installed", editable=True), lambda: module)
        names = {module.__name__}
    return check(registry, names)


def broken_module(module: ModuleType) -> list[str]:
    """The failed claims of a plugin with remedies, without advice; empty if all hold."""
    return [f"{c.kind} {c.name}: {c.verdict}" for c in check_module(module) if c.verdict.level == "failed"]


def installed_as(module: ModuleType) -> set[str]:
    """The names of the entry points that load a module."""
    return {entry.name for entry in entry_points(group=GROUP) if entry.module == module.__name__}


def _of_plugins(registry: Registry, names: set[str]) -> Iterator[Checked]:
    def failed(name: str, claim: str, problem: str, remedy: str, kind: str = "plugin") -> Checked:
        return Checked(kind, name, Verdict(claim, "failed", problem, remedy))

    for broken in registry.broken:
        if broken.origin.plugin in names:
            claim = "it can be loaded, and its hooks can be called"
            yield failed(broken.origin.plugin, claim, broken.cause, "Correct what raises this.")
    for implementation, hook, near in unknown_hooks(registry):
        origin = registry.origins[implementation]
        if origin.plugin in names:
            remedy = f"Did you mean {near}?" if near else "docs/plugins.md lists the hooks."
            yield failed(origin.plugin, "every hook that it implements exists", f"{hook} is not a hook", remedy)
    for implementation, problem in uncalled(registry):
        origin = registry.origins[implementation]
        if origin.plugin in names:
            remedy = "Put @plad_bench.hookimpl above the function."
            yield failed(origin.plugin, "all of its hooks are called", problem, remedy)
    for kind in KINDS:
        for name, found in registry.components(kind).items():
            if len(found) > 1 and any(r.origin.plugin in names for r in found):
                both = " and ".join(r.origin.distribution for r in found)
                yield failed(name, "its name is unique", f"registered by {both}", "Choose another name.", kind)
    again = Registry(registry.manager, registry.origins)
    for kind in KINDS:
        first, second = (sorted(_own(r, kind, names)) for r in (registry, again))
        if first != second:
            claim, problem = "its hooks give the same records each time", f"{kind}s {first}, then {second}"
            yield failed(min(names), claim, problem, "Make names of constants: no counters, dates or random numbers.")
    for name, finding in heavy_imports(registry, names):
        yield Checked("plugin", name, Verdict("importing it is quick", "warning", finding.message, finding.remedy))


def _of_components(registry: Registry, names: set[str]) -> Iterator[Checked]:
    for kind in KINDS:
        for name, component in _own(registry, kind, names).items():
            for verdict in verdicts(component, registry):
                yield Checked(kind, name, verdict)


def _own(registry: Registry, kind: str, names: set[str]) -> dict[str, Any]:
    """The components of a kind that the named plugins register."""
    found = (r for listed in registry.components(kind).values() for r in listed)
    return {r.component.name: r.component for r in found if r.origin.plugin in names}


def unknown_hooks(registry: Registry) -> Iterator[tuple[str, str, str]]:
    """(plugin, hook, similar names) for each implementation of a hook that does not exist."""
    hooks: dict[str, Any] = {n: h for n, h in vars(registry.manager.hook).items() if not n.startswith("_")}
    existing = [name for name, hook in hooks.items() if hook.has_spec()]
    for name, hook in hooks.items():
        for impl in [] if hook.has_spec() else hook.get_hookimpls():
            if not impl.optionalhook:
                yield impl.plugin_name, name, " or ".join(near_matches(name, existing))


def uncalled(registry: Registry) -> Iterator[tuple[str, str]]:
    """(plugin, problem) for each plugin without hooks, and for each hook function without @hookimpl."""
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


def heavy_imports(registry: Registry, names: set[str]) -> Iterator[tuple[str, Finding]]:
    """A warning for each named plugin that imports heavy packages at import time and so delays every command."""
    for entry in entry_points(group=GROUP):
        if entry.name in names and entry.dist is not None and entry.dist.name != "plad-bench":
            yield from _imported(entry.name, "module", entry.module)
    for file in registry.files:
        if file.stem in names:
            yield from _imported(file.stem, "file", str(file))


def _imported(name: str, kind: str, what: str) -> Iterator[tuple[str, Finding]]:
    """Errors are reported where the plugin is loaded."""
    command = [sys.executable, "-c", _PROBE, kind, what, ",".join(_HEAVY)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    made = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=100, check=False)
    if made.returncode:
        return
    seconds, heavy = json.loads(made.stdout.splitlines()[-1])
    if heavy:
        message = f"{name} imports {' and '.join(heavy)} at the top: every command waits {seconds:.1f} s for that"
        yield name, Finding(ok=True, message=message, remedy="Import them inside the functions that need them.")
