"""Deprecated module of the records that plugins register: import them from `plad_bench`. Removed in version 0.3."""

from __future__ import annotations

import warnings
from typing import Any

import plad_bench
from plad_bench.contract.renamed import API


def __getattr__(name: str) -> Any:
    """Return a public name, with a deprecation warning."""
    if name not in plad_bench.__all__ and name not in API:
        msg = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(msg)
    warnings.warn(
        f"import {API.get(name, name)} from plad_bench, not from {__name__}", DeprecationWarning, stacklevel=2
    )
    return getattr(plad_bench, API.get(name, name))
