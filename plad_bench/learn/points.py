"""Keeps the weights of a training at shares of it, so that its model can be evaluated there."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from plad_bench.contract.files import write_atomically
from plad_bench.learn import ranks
from plad_bench.learn.length import Result
from plad_bench.learn.models import load_trained, save_trained


@dataclass(frozen=True)
class Points:
    """Shares of a training, whose files survive a kill."""

    percents: Sequence[int]
    model: nn.Module
    cost: Callable[[Result], Mapping[str, float]]
    """What the training has cost so far, for the record."""
    partial: Path
    """The directory for the weights that are trained, and their cost."""

    def passed(self, before: float, share: float, done: Result) -> None:
        """Keep the weights if the last step reached a share; `before` and `share` are those around the step."""
        for percent in self.percents:
            if before < percent / 100 <= share:
                weights, cost = self._files(percent)
                save_trained(self.model, weights)
                if not ranks.rank():
                    write_atomically(cost, json.dumps(self.cost(done)).encode())

    def cost_at(self, percent: int) -> dict[str, float]:
        """What the training had cost there."""
        found: dict[str, float] = json.loads(self._files(percent)[1].read_text())
        return found

    def give(self, model: nn.Module, percent: int) -> None:
        """Give a model the weights that were kept; its trained parameters have the same names."""
        load_trained(model, self._files(percent)[0])

    def _files(self, percent: int) -> tuple[Path, Path]:
        return self.partial / f"at-{percent}.safetensors", self.partial / f"at-{percent}.json"
