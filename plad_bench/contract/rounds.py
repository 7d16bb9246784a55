"""Rounds: equal parts of a method's training. Each begins with new off-policy samples of the student."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator

_NUMBER = re.compile(r"-\d+$")


def parts(steps: int, rounds: int) -> Iterator[tuple[int, int]]:
    """The first step and the number of steps of each round."""
    bounds = [steps * number // rounds for number in range(rounds + 1)]
    return ((first, after - first) for first, after in itertools.pairwise(bounds))


def name(stage: str, number: int) -> str:
    """The name of a stage in a round. Round 1 samples from the SFT initialisation, as a training of one round does."""
    return stage if number == 1 else f"{stage}-{number}"


def earlier(number: int) -> str:
    """The name of the training of a round that is not the last."""
    return f"distill-{number}"


def number(stage: str) -> int:
    """The round in a stage's name; 0 if it has none."""
    found = _NUMBER.search(stage)
    return int(found[0][1:]) if found else 0


def kind(stage: str) -> str:
    """The name that stages of one kind share: those of all rounds, and the log-probabilities of all texts."""
    return "signals" if stage.startswith("signals-") else _NUMBER.sub("", stage)
