"""Keeps the best checkpoint of a training, by a value that is measured at a few points of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from plad_bench.learn import ranks
from plad_bench.learn.models import load_trained, save_trained
from plad_bench.learn.training import Step, Steps


def points(steps: int, count: int) -> list[int]:
    """The numbers of steps after which a training is measured: `count` of them, evenly spaced, with the last step."""
    return sorted({max(1, round(steps * k / count)) for k in range(1, count + 1)})


@dataclass
class Selection(Steps):
    """The steps of a training, which measures its model at some of them. The state holds the values so far."""

    steps: Steps
    model: nn.Module
    measure: Callable[[], float]
    """The value of the model as it is, the same on every rank; higher is better, NaN is worst."""
    points: Collection[int]
    """Numbers of steps after which to measure, the last step of the training among them."""
    directory: Path
    """For the weights that are the best so far: those that are trained."""
    values: dict[int, float] = field(default_factory=dict)
    """Number of steps -> the value."""

    def at(self, number: int, share: float) -> Step:
        return self.steps.at(number, share)

    def after(self, number: int, share: float, loss: float, *, ends_part: bool) -> dict[str, float]:
        reported = self.steps.after(number, share, loss, ends_part=ends_part)
        if number + 1 in self.points:
            self._look(number + 1)
        return reported

    def state(self) -> dict[str, Any]:
        return {"steps": self.steps.state(), "values": {str(step): value for step, value in self.values.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        self.steps.restore(state["steps"])
        self.values = {int(step): value for step, value in state["values"].items()}

    @property
    def best(self) -> int:
        """The number of steps of the best checkpoint, the earliest of equal ones."""
        return max(self._kept(), key=lambda step: (_worth(self.values[step]), -step))

    def give_best(self, model: nn.Module) -> None:
        """Give a model that was trained to the end the weights of the best checkpoint."""
        if self.best < max(self.points):
            load_trained(model, self._file(self.best))

    def _look(self, step: int) -> None:
        """Measure, and write the weights if they are the best so far. Those of the last step are in the model."""
        before = [self.best] if self._kept() else []
        if not ranks.rank():
            for file in set(self.directory.glob("best-*.safetensors")) - {self._file(best) for best in before}:
                file.unlink()  # and not that of `before`: a run that resumes from an earlier step needs it
        self.values[step] = self.measure()
        beaten = all(_worth(self.values[step]) > _worth(self.values[best]) for best in before)
        if beaten and step != max(self.points):
            save_trained(self.model, self._file(step))

    def _kept(self) -> list[int]:
        """The measured steps whose weights are there; those of the last step are in the model."""
        last = max(self.points)
        return [step for step in self.values if step == last or self._file(step).is_file()]

    def _file(self, step: int) -> Path:
        return self.directory / f"best-{step}.safetensors"


def _worth(value: float) -> float:
    return -math.inf if math.isnan(value) else value
