"""The version of the plugin API, and the one that a plugin asks for."""

from __future__ import annotations

import ast
import importlib.util

from plad_bench.contract.errors import PluginError

API_VERSION = 2
"""Raised, at most once in a release, when a name of the API is added, renamed or removed (docs/plugins.md)."""
DECLARATION = "PLAD_BENCH_API"
"""The constant of a plugin's module that holds the oldest version it works with."""


def check(source: str | bytes) -> None:
    """See that a plugin works with this version, before its module is executed: it may import what is not there.

    Raises:
        PluginError: if it asks for a newer one, or for something that is no version.
        SyntaxError: if it is not Python.
    """
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == DECLARATION for target in targets):
            _check_version(getattr(node, "value", None))


def check_module(name: str) -> None:
    """The same for a module that is to be imported. Errors as `check`, and those of importing its packages."""
    spec = importlib.util.find_spec(name)
    read = getattr(spec.loader, "get_source", None) if spec else None
    check((read(name) if read else None) or "")


def _check_version(value: ast.expr | None) -> None:
    asked = value.value if isinstance(value, ast.Constant) else None
    if type(asked) is not int:
        raise PluginError(f"{DECLARATION} is no integer", f"Write it as a constant: {DECLARATION} = {API_VERSION}.")
    if asked > API_VERSION:
        raise PluginError(
            f"it needs version {asked} of the plugin API, and this plad-bench has version {API_VERSION}",
            "Upgrade plad-bench, or install an older version of the plugin.",
        )
