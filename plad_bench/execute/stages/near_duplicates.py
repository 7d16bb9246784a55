"""Near-duplicates across splits: prompts that mostly repeat an evaluated prompt.

Prompts are compared by their sets of three consecutive words, with the ends of the text counted as words. Triples that
many prompts share come from an instruction or a template, and distinguish no prompt: a triple in more prompts than
`template_size` does not count. Two prompts are near-duplicates if the Jaccard similarity of their sets reaches the
threshold, both for the triples that count and for all triples.

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
"""Similarity threshold of near-duplicates. It finds one changed word in a text of seven words or more; in a shorter
text a changed word often makes a different question."""
ORDER = ("train", "validation", "test")
"""A prompt is compared with those of later splits."""

_BITS = 21
"""The range of word numbers: three numbers fit into one integer, exactly for up to two million different words."""


@dataclass(frozen=True)
class Near:
    """A prompt that nearly repeats another of a later split."""

    prompt: Prompt
    other: Prompt
    similarity: float
    """The smaller of the similarities of the triples that count and of all triples."""

    def __str__(self) -> str:
        return (
            f"{self.prompt.id} ({self.prompt.split}) is {self.similarity:.0%} {self.other.id} ({self.other.split}): "
            f"{self.prompt.prompt[:80]!r}"
        )


def template_size(prompts: int) -> int:
    """The maximum number of prompts that share a triple before it counts as part of a template.

    1 % of the prompts, and at least 20; of fewer than 200 prompts 10 %, and at least 2.
    """
    return max(2, min(20, prompts // 10), prompts // 100)


@dataclass(frozen=True)
class _Triples:
    """The triples of a prompt, numbered from the rarest to the commonest: all of them, and those that count."""

    every: NDArray[np.int64]
    telling: NDArray[np.int64]

    def prefix(self, threshold: float) -> list[int]:
        """The rarest triples that count, as many as a similar prompt cannot lack all of."""
        kept = len(self.telling) - math.ceil(threshold * len(self.telling)) + 1
        return self.telling[:kept].tolist()


def near_duplicates(prompts: Sequence[Prompt], threshold: float = THRESHOLD) -> list[Near]:
    """Every prompt that nearly repeats one of a later split, with the first such prompt.

    Memory is about thirty bytes per word of the prompts; most of the time is spent reading them.
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
