"""Near-duplicates across splits: prompts that mostly say what an evaluated prompt says.

Prompts are compared by their sets of three consecutive words, the ends of the text counted as words. What many prompts
have in common, such as an instruction or a template, says nothing of one of them: a triple that more prompts have than
`template_size` says does not count. Two prompts are near-duplicates if the Jaccard similarity of their sets reaches the
threshold, of the triples that count and of all triples.

The search is exact. Two sets that reach the threshold share one of their rarest members, so only those are indexed
(prefix filtering, Chaudhuri et al. 2006, ICDE).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from plad_bench.contract.words import tokens
from plad_bench.execute.stages.files import Prompt

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
    """The smaller one: of the triples that count, or of all."""

    def __str__(self) -> str:
        return (
            f"{self.prompt.id} ({self.prompt.split}) is {self.similarity:.0%} {self.other.id} ({self.other.split}): "
            f"{self.prompt.prompt[:80]!r}"
        )


def template_size(prompts: int) -> int:
    """How many prompts may share a triple before it counts as part of a template: 1 % of them, but 20 at the least.

    Of fewer than 200 prompts it is a tenth, and 2 at the least.
    """
    return max(2, min(20, prompts // 10), prompts // 100)


@dataclass(frozen=True)
class _Triples:
    """Of one prompt: all its triples, numbered from the rarest to the commonest, and those of them that count."""

    every: NDArray[np.int64]
    telling: NDArray[np.int64]

    def prefix(self, threshold: float) -> list[int]:
        """As many of those that count, the rarest first, as one that reaches the threshold can't lack all of."""
        kept = len(self.telling) - math.ceil(threshold * len(self.telling)) + 1
        return self.telling[:kept].tolist()


def near_duplicates(prompts: Sequence[Prompt], threshold: float = THRESHOLD) -> list[Near]:
    """Every prompt that nearly repeats one of a later split, with the first such one.

    Memory is about thirty bytes for each word of the prompts; time is mostly that of reading them.
    """
    if not prompts:
        return []
    triples = _numbered([_triples_of(ids) for ids in _word_numbers(prompts)])
    index: dict[int, list[int]] = {}
    for i, prompt in enumerate(prompts):
        if prompt.split != ORDER[0]:
            for triple in triples[i].prefix(threshold):
                index.setdefault(triple, []).append(i)
    found = []
    for i, prompt in enumerate(prompts):
        if prompt.split != ORDER[-1]:
            candidates = {j for triple in triples[i].prefix(threshold) for j in index.get(triple, ())}
            match = _first(i, sorted(candidates), prompts, triples, threshold)
            if match is not None:
                found.append(match)
    return found


def _first(
    i: int, candidates: Sequence[int], prompts: Sequence[Prompt], triples: Sequence[_Triples], threshold: float
) -> Near | None:
    place = ORDER.index(prompts[i].split)
    for j in candidates:
        if ORDER.index(prompts[j].split) > place:
            similarity = min(
                _jaccard(triples[i].telling, triples[j].telling), _jaccard(triples[i].every, triples[j].every)
            )
            if similarity >= threshold:
                return Near(prompts[i], prompts[j], similarity)
    return None


def _jaccard(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    shared = len(np.intersect1d(a, b, assume_unique=True))
    return shared / (len(a) + len(b) - shared)


def _word_numbers(prompts: Sequence[Prompt]) -> list[list[int]]:
    numbers: dict[str, int] = {}
    return [[numbers.setdefault(word, len(numbers) + 1) for word in tokens(p.prompt)] for p in prompts]


def _triples_of(ids: Sequence[int]) -> NDArray[np.int64]:
    """The distinct word triples of a text as integers, with two empty words before and after it."""
    row = np.array([0, 0, *ids, 0, 0], np.int64)
    return np.unique(row[:-2] << 2 * _BITS | row[1:-1] << _BITS | row[2:])


def _numbered(rows: Sequence[NDArray[np.int64]]) -> list[_Triples]:
    """The triples of each prompt, numbered by how many prompts have them."""
    _, inverse, counts = np.unique(np.concatenate(rows), return_inverse=True, return_counts=True)
    order = np.argsort(counts, kind="stable")
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    common = np.searchsorted(counts[order], template_size(len(rows)), side="right")
    ends = np.cumsum([len(row) for row in rows])
    sets = (np.sort(part) for part in np.split(rank[inverse], ends[:-1]))
    return [_Triples(every, every[: np.searchsorted(every, common)]) for every in sets]
