"""Trials of a method's settings: what may be tried, what was, and what came of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

SEED = 1000
"""Of every trial: settings are not picked by the luck of a seed that is ranked."""
Values: TypeAlias = Mapping[str, float | int]
"""Of searched parameters, by name. The learning rate is the one of the training, even where all methods share it."""


@dataclass(frozen=True)
class Dimension:
    """The range of one parameter, both ends included."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    """Integers alone."""
    default: float | int


@dataclass(frozen=True)
class Trial:
    """What was tried, and what came of it."""

    values: Values
    score: float | None
    """Mean of the metric over the validation split; None if the trial failed."""
    reason: str = ""
    """Why it failed."""
    cost: Mapping[str, float] | None = None
    """As the record of a cell has it."""


@dataclass(frozen=True)
class Tuning:
    """How the settings of a method were chosen."""

    metric: str
    better: str
    space: tuple[Dimension, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> int | None:
        """The number of the trial with the best score, the earlier of equals; None if all failed."""
        sign = 1 if self.better == "higher" else -1
        scores = [(sign * trial.score, -number) for number, trial in enumerate(self.trials) if trial.score is not None]
        return -max(scores)[1] if scores else None
