"""The ledger of a board: every execution of a stage for the board, with what it cost.

It consists of one file per run, `compute/<run>.jsonl` in the board's directory, to which lines are only added. Files of
several machines lie side by side, and an execution that two of them name has the same id in both.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FOLDER = "compute"
SUMMED = (
    "device_seconds",
    "processor_seconds",
    "energy_wh",
    "startup_energy_wh",
    "tokens_trained",
    "tokens_read",
    "tokens_generated",
    "teacher_tokens_scored",
    "money",
)
"""Costs that can be added up over stages."""


@dataclass(frozen=True)
class Execution:
    """One execution of a stage, or a payment of a run for requests."""

    id: str
    key: str
    """Of the stage; empty for a payment."""
    stage: str
    """Its name, such as distill; `requests` for a payment."""
    failed: bool = False
    """Whether it was killed or failed."""
    trial: bool = False
    """Whether only trials of tuning use the stage."""
    cost: Mapping[str, float] = field(default_factory=dict)

    def line(self) -> str:
        """The line of the file, with its end."""
        return json.dumps(asdict(self), sort_keys=True, allow_nan=False) + "\n"


def costs(cost: Mapping[str, float]) -> dict[str, float]:
    """The costs of a stage that can be added up, rounded as in records."""
    return {name: round(cost[name], 6) for name in SUMMED if name in cost}


def read(board: Path) -> dict[str, Execution]:
    """Id -> execution, of all runs. A line that is not one, as a killed run may leave at the end, is left out.

    Args:
        board: the directory of the board.
    """
    found: dict[str, Execution] = {}
    for path in sorted((board / FOLDER).glob("*.jsonl")):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            if (execution := _parsed(line)) is not None:
                found.setdefault(execution.id, execution)
    return found


def _parsed(line: str) -> Execution | None:
    try:
        said: Any = json.loads(line)
        texts = {name: said[name] for name in ("id", "key", "stage")}
        flags = {name: said[name] for name in ("failed", "trial")}
        cost = {name: float(said["cost"][name]) for name in SUMMED if name in said["cost"]}
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None
    sound = all(isinstance(text, str) and len(text) < 300 for text in texts.values())
    sound = sound and all(isinstance(flag, bool) for flag in flags.values())
    sound = sound and all(math.isfinite(value) and 0 <= value < 1e18 for value in cost.values())
    return Execution(**texts, **flags, cost=cost) if sound else None
