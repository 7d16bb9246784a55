"""The events that observation hooks receive."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Event:
    """An event that observation hooks receive."""

    kind: str
    """run_started, stage_finished, cell_finished or run_finished."""
    name: str
    """The run, stage or cell."""
    status: str
    data: Mapping[str, Any] = field(default_factory=dict)
