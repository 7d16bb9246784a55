"""The version of the plugin API, and the version that a plugin requires."""

from __future__ import annotations

import ast
import importlib.util

from plad_bench.contract.errors import PluginError

API_VERSION = 2
"""Increased, at most once per release, when a name of the API is added, renamed or removed (docs/plugins.md)."""
DECLARATION = "PLAD_BENCH_API"
"""The constant in a plugin's module with the oldest version that the plugin supports."""


def check(source: str | bytes) -> None:
    """Check that a plugin supports this version, before its module is executed and may import missing names.

    Raises:
        PluginError: if it requires a newer version, or if the version is invalid.
        SyntaxError: if the source is not valid Python.
    """
    for node in ast.parse(source).body:
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == DECLARATION for target in targets):
            _check_version(getattr(node, "value", None))


def check_module(name: str) -> None:
    """`check` for a module before its import. Errors as `check`, and errors of importing its packages."""
    spec = importlib.util.find_spec(name)
    read = getattr(spec.loader, "get_source", None) if spec else None
    check((read(name) if read else None) or "")


def _check_version(value: ast.expr | None) -> None:
    asked = value.value if isinstance(value, ast.Constant) else None
    if type(asked) is not int:
        raise PluginError(f"{DECLARATION} is not an integer", f"Write it as a constant: {DECLARATION} = {API_VERSION}.")
    if asked > API_VERSION:
        raise PluginError(
            f"it needs version {asked} of the plugin API, but this plad-bench has version {API_VERSION}",
            "Upgrade plad-bench, or install an older version of the plugin.",
        )
