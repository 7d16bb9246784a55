"""Near-duplicates across splits: prompts whose word triples are mostly those of an evaluated prompt.

The similarity is Jaccard's over the sets of all three consecutive words, the ends of the text counted as words, and is
computed exactly for every pair that can reach the threshold: two sets that do must share one of their rarest members,
so only those are indexed (prefix filtering, Chaudhuri et al. 2006, ICDE). Nothing is sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plad_bench.execute.stages.files import Prompt, words

THRESHOLD = 0.5
"""Similarity from which prompts count as near-duplicates. One changed word is found in a text of seven words or more;
in a shorter one it makes another question as often as not."""
ORDER = ("train", "validation", "test")
"""A prompt is compared with those of later splits."""

_BITS = 21
"""A word's number has this many, so that three fit into one integer; exact up to two million different words."""


@dataclass(frozen=True)
class Near:
    """A prompt that nearly repeats another of a later split."""

    prompt: Prompt
    other: Prompt
    similarity: float

    def __str__(self) -> str:
        return (
            f"{self.prompt.id} ({self.prompt.split}) is {self.similarity:.0%} {self.other.id} ({self.other.split}): "
            f"{self.prompt.prompt[:80]!r}"
        )


def near_duplicates(prompts: Sequence[Prompt], threshold: float = THRESHOLD) -> list[Near]:
    """Every prompt that nearly repeats one of a later split, with the first such one.

    Memory is about eight bytes for each word of the prompts; time is mostly that of reading them.
    """
    triples = _triples(prompts)
    evaluated = [i for i, p in enumerate(prompts) if p.split != ORDER[0]]
    if not evaluated:
        return []
    known, counts = np.unique(np.concatenate([triples[i] for i in evaluated]), return_counts=True)
    index: dict[int, list[int]] = {}
    for i in evaluated:
        for triple in _rarest(triples[i], known, counts, threshold):
            index.setdefault(triple, []).append(i)
    found = []
    for i, prompt in enumerate(prompts):
        if prompt.split != ORDER[-1]:
            candidates = {j for triple in _rarest(triples[i], known, counts, threshold) for j in index.get(triple, ())}
            match = _first(i, sorted(candidates), prompts, triples, threshold)
            if match is not None:
                found.append(match)
    return found


def _first(
    i: int, candidates: Sequence[int], prompts: Sequence[Prompt], triples: Sequence[NDArray[np.int64]], threshold: float
) -> Near | None:
    mine = set(triples[i].tolist())
    place = ORDER.index(prompts[i].split)
    for j in candidates:
        smaller, larger = sorted((len(mine), len(triples[j])))
        if ORDER.index(prompts[j].split) > place and smaller >= threshold * larger:
            shared = len(mine.intersection(triples[j].tolist()))
            similarity = shared / (smaller + larger - shared)
            if similarity >= threshold:
                return Near(prompts[i], prompts[j], similarity)
    return None


def _triples(prompts: Sequence[Prompt]) -> list[NDArray[np.int64]]:
    """The distinct word triples of each prompt, as sorted integers, with two empty words before and after the text."""
    numbers: dict[str, int] = {}
    made = []
    for prompt in prompts:
        ids = [numbers.setdefault(word, len(numbers) + 1) for word in words(prompt.prompt)]
        row = np.array([0, 0, *ids, 0, 0], np.int64)
        made.append(np.unique(row[:-2] << 2 * _BITS | row[1:-1] << _BITS | row[2:]))
    return made


def _rarest(
    triples: NDArray[np.int64], known: NDArray[np.int64], counts: NDArray[np.int64], threshold: float
) -> list[int]:
    """As many of a prompt's triples, the rarest first, as one that reaches the threshold can't all miss."""
    places = np.searchsorted(known, triples).clip(max=len(known) - 1)
    frequency = np.where(known[places] == triples, counts[places], 0)
    kept = len(triples) - math.ceil(threshold * len(triples)) + 1
    return triples[np.lexsort((triples, frequency))][:kept].tolist()
