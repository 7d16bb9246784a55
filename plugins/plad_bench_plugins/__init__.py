"""The built-in components of plad-bench, registered through the public hooks.

Each sub-package contains one kind of component, and each of its modules lists its components in `RECORDS`. A
sub-package is imported when the harness first needs its kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from plad_bench.contract.hookspecs import hookimpl


def _records(kind: str) -> Iterator[Any]:
    package = import_module(f"{__name__}.{kind}")
    for module in sorted(iter_modules(package.__path__), key=lambda m: m.name):
        if module.name.startswith("_"):
            continue
        yield from import_module(f"{package.__name__}.{module.name}").RECORDS


@hookimpl
def plad_bench_teachers() -> Iterator[Any]:
    """Teacher sources and aliases."""
    return _records("teachers")


@hookimpl
def plad_bench_pair_builders() -> Iterator[Any]:
    """Pair builders."""
    return _records("pairs")


@hookimpl
def plad_bench_methods() -> Iterator[Any]:
    """Distillation methods, one file each."""
    return _records("methods")


@hookimpl
def plad_bench_metrics() -> Iterator[Any]:
    """Metrics and scorers."""
    return _records("metrics")


@hookimpl
def plad_bench_tasks() -> Iterator[Any]:
    """Tasks."""
    return _records("tasks")


@hookimpl
def plad_bench_students() -> Iterator[Any]:
    """Students and aliases."""
    return _records("students")


@hookimpl
def plad_bench_launchers() -> Iterator[Any]:
    """Launchers."""
    return _records("launchers")


@hookimpl
def plad_bench_checks() -> Iterator[Any]:
    """Checks of `doctor`."""
    return _records("checks")
