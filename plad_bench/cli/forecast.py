"""How long a run has still to go, judged by what its stages have taken so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from statistics import mean

from plad_bench.execute.engine import Running
from plad_bench.execute.store import Artifact
from plad_bench.plan.stages import Stage

_ENOUGH = 3
"""Finished stages from which others are judged."""


class Forecast:
    """Takes a stage to last as long as those of its name did, or as all did where none of its name has ended."""

    def __init__(self) -> None:
        self._took: dict[str, list[float]] = defaultdict(list)
        self._slots = 1

    def finished(self, stage: Stage, artifact: Artifact) -> None:
        """Note how long a stage took."""
        self._took[stage.name].append(float(artifact.manifest["seconds"]))

    def left(self, running: Sequence[Running], waiting: Sequence[Stage]) -> float | None:
        """Seconds until all stages have ended; None while too few have."""
        every = [seconds for took in self._took.values() for seconds in took]
        if len(every) < _ENOUGH:
            return None
        self._slots = max(self._slots, len(running))
        work = sum(self._lasts(stage, every) for stage in waiting) + sum(self._rest(one, every) for one in running)
        return work / self._slots

    def _lasts(self, stage: Stage, every: Sequence[float]) -> float:
        return mean(self._took.get(stage.name) or every)

    def _rest(self, one: Running, every: Sequence[float]) -> float:
        """Of a running stage: by its own steps where it tells of any."""
        so_far, progress = time.monotonic() - one.began, one.progress()
        if step := progress.get("step"):
            return so_far * max(0.0, progress["total"] - step) / step
        return max(0.0, self._lasts(one.stage, every) - so_far)


def in_words(left: float | None) -> str:
    """A time in words, such as "about 3 min left"; nothing where nobody knows."""
    if left is None:
        return ""
    for unit, seconds in (("h", 3600), ("min", 60)):
        if left > 1.5 * seconds:
            return f"about {left / seconds:.0f} {unit} left"
    return f"about {max(1, left):.0f} s left"
