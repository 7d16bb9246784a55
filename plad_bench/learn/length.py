"""How long a training lasts: a number of steps, or a budget of what its steps use up.

Schedules follow the share of it that is used up, so the learning rate reaches zero as the training ends.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

WARMUP_SHARE = 0.05
FIRST_RATE = 0.1
"""Share of the peak at the first step under a budget, of which nothing is used up then."""
PARTS = 10
"""Equal parts of a training, for what is done about ten times in each."""


@dataclass
class Result:
    """The training curve and totals of a run."""

    curve: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    read: int = 0
    milliseconds: list[float] = field(default_factory=list, compare=False)
    """Wall-clock time of each step; never equal in two runs."""
    seconds: float = field(default=0.0, compare=False)
    """Device-seconds of all steps, over all ranks."""

    @property
    def steps(self) -> int:
        """Number of steps so far."""
        return len(self.milliseconds)


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


class Length:
    """How long a training lasts."""

    def share(self, done: Result) -> float:
        """The share that is used up, from 0 to 1; at 1 the training has ended."""
        raise NotImplementedError

    def rate(self, done: Result, peak: float) -> float:
        """The learning rate of the next step."""
        raise NotImplementedError

    def ends_part(self, before: float, done: Result) -> bool:
        """Whether the last step ended one of `PARTS` parts; `before` is the share before that step."""
        raise NotImplementedError

    def steps(self, done: Result) -> int:
        """The number of steps in all, or an estimate."""
        raise NotImplementedError

    def number(self, done: Result) -> int:
        """The number of the next step, which determines its data and its dropout."""
        return done.steps


@dataclass(frozen=True)
class StepCount(Length):
    """A number of steps, which may be some of a longer training's."""

    count: int
    first: int = 0
    """Steps of the longer training before these."""
    whole: int = 0
    """Steps of the longer training; 0 if these are all."""

    def share(self, done: Result) -> float:
        return done.steps / self.count

    def rate(self, done: Result, peak: float) -> float:
        return learning_rate(self.number(done), self.whole or self.count, peak)

    def number(self, done: Result) -> int:
        return self.first + done.steps

    def ends_part(self, before: float, done: Result) -> bool:
        return done.steps % max(1, self.count // PARTS) == 0

    def steps(self, done: Result) -> int:
        return self.count


@dataclass(frozen=True)
class BudgetLength(Length):
    """An amount that steps use up; the step that uses up the rest is the last one."""

    amount: float
    used: Callable[[Result], float]
    """What a training has used up so far, which includes what was used up before it began."""
    before: float = 0.0
    """What was used up before it began."""
    most: int = 0
    """Number of steps after which the training ends in any case; 0 for no limit."""

    def share(self, done: Result) -> float:
        used = (self.used(done) - self.before) / (self.amount - self.before)
        return min(1.0, max(used, done.steps / self.most if self.most else 0.0))

    def rate(self, done: Result, peak: float) -> float:
        """Linear warm-up from a tenth of the peak over the first 5 % of the budget, then a cosine to zero."""
        share = self.share(done)
        if share < WARMUP_SHARE:
            return peak * (FIRST_RATE + (1 - FIRST_RATE) * share / WARMUP_SHARE)
        return peak * 0.5 * (1 + math.cos(math.pi * (share - WARMUP_SHARE) / (1 - WARMUP_SHARE)))

    def ends_part(self, before: float, done: Result) -> bool:
        return math.floor(PARTS * self.share(done)) > math.floor(PARTS * before)

    def steps(self, done: Result) -> int:
        share = self.share(done)
        return max(done.steps, round(done.steps / share)) if share else self.most
