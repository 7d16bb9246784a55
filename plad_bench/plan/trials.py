"""Trials of a method's settings: search spaces, trials and their results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

SEED = 1000
"""Seed of all trials. It differs from the seeds that are ranked, so that the search does not favour them."""
Values: TypeAlias = Mapping[str, float | int]
"""Values of searched parameters, by name. `lr` is the training's learning rate, even if all methods share it."""


@dataclass(frozen=True)
class Dimension:
    """The range of one parameter, including both ends."""

    name: str
    low: float
    high: float
    log: bool
    whole: bool
    """Whether to try integers only."""
    default: float | int

    def at(self, share: float) -> float | int:
        """The value at a share of the range, from 0 to 1; of its logarithm where values are tried by that."""
        value = self.low * (self.high / self.low) ** share if self.log else self.low + share * (self.high - self.low)
        return round(value) if self.whole else value


@dataclass(frozen=True)
class Trial:
    """The settings of a trial and its result."""

    values: Values
    score: float | None
    """Mean of the metric over the validation split; None if the trial failed."""
    reason: str = ""
    """Reason for the failure."""
    cost: Mapping[str, float] | None = None
    """Cost, as in the record of a cell."""


@dataclass(frozen=True)
class Tuning:
    """How the settings of a method were chosen."""

    metric: str
    better: str
    space: tuple[Dimension, ...]
    trials: tuple[Trial, ...]

    @property
    def best(self) -> int | None:
        """Index of the trial with the best score, the first of equal ones; None if all failed."""
        sign = 1 if self.better == "higher" else -1
        scores = [(sign * trial.score, -number) for number, trial in enumerate(self.trials) if trial.score is not None]
        return -max(scores)[1] if scores else None
