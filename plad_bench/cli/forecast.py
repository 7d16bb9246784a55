"""The estimated time left of a run, from the stages that have finished so far."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from statistics import mean

from plad_bench.execute.engine import Running
from plad_bench.execute.store import Artifact
from plad_bench.plan.stage import Stage

_LONG = frozenset({"train", "generate", "ask"})
"""Operations that take most of a run's time. An estimate needs one finished stage of each that remains."""


class Forecast:
    """Assumes that a stage lasts as long as finished stages of its name did or, failing that, of its operation."""

    def __init__(self) -> None:
        self._by_name: dict[str, list[float]] = defaultdict(list)
        self._by_operation: dict[str, list[float]] = defaultdict(list)
        self._slots = 1

    def finished(self, stage: Stage, artifact: Artifact) -> None:
        """Note how long a stage took."""
        seconds = float(artifact.manifest["seconds"])
        self._by_name[stage.name].append(seconds)
        self._by_operation[stage.operation].append(seconds)

    def left(self, running: Sequence[Running], waiting: Sequence[Stage]) -> float | None:
        """Seconds until all stages have finished; None while too few have been timed."""
        self._slots = max(self._slots, len(running))
        so_far = [time.monotonic() - one.began for one in running]
        projected = [_projected(one, seconds) for one, seconds in zip(running, so_far, strict=True)]
        ahead = {one.stage.operation: whole for one, whole in zip(running, projected, strict=True) if whole is not None}
        work = 0.0
        for one, seconds, own in zip(running, so_far, projected, strict=True):
            whole = self._lasts(one.stage, ahead) if own is None else own
            if whole is None:
                return None
            work += max(0.0, whole - seconds)
        for stage in waiting:
            whole = self._lasts(stage, ahead)
            if whole is None:
                return None
            work += whole
        return work / self._slots

    def _lasts(self, stage: Stage, ahead: Mapping[str, float]) -> float | None:
        """Seconds of a whole stage; a short operation that was never timed counts as nothing."""
        if took := self._by_name.get(stage.name) or self._by_operation.get(stage.operation):
            return mean(took)
        return ahead.get(stage.operation, None if stage.operation in _LONG else 0.0)


def _projected(one: Running, so_far: float) -> float | None:
    """Seconds that a running stage will take in all, judged by its steps; None if it has reported none."""
    progress = one.progress()
    step = progress.get("step")
    return so_far * progress["total"] / step if step else None


def in_words(left: float | None) -> str:
    """A time in words, such as "about 3 min left"; empty if it is not known."""
    if left is None:
        return ""
    for unit, seconds in (("h", 3600), ("min", 60)):
        if left > 1.5 * seconds:
            return f"about {left / seconds:.0f} {unit} left"
    return f"about {max(1, left):.0f} s left"
