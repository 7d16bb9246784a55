"""Preference pairs of off-policy samples: the best over the worst, by a scorer or by mutual similarity."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from statistics import fmean
from typing import Self

from pydantic import model_validator

from plad_bench import Candidates, Pair, PairBuilder, PairParams, Response, Scorers, Text, param


class BestParams(PairParams):
    """Parameters of best-of-n."""

    scorer: str = param("rouge-l", min_length=1, source="ours")
    """Selector of the metric that ranks the responses."""
    n: int = param(0, ge=0, source="ours")
    """Number of responses per prompt to consider (0: all)."""
    per_prompt: int = param(1, ge=1, source="ours")
    """Maximum number of pairs per prompt: the best over the worst, the second best over the second worst, and so on."""


class MBRParams(PairParams):
    """Parameters of mbr."""

    utility: str = param("rouge-l", min_length=1, source="ours")
    """Selector of the metric that compares a response with another one as its reference."""
    per_prompt: int = param(1, ge=1, source="ours")
    """Maximum number of pairs per prompt: the best over the worst, the second best over the second worst, and so on."""

    @model_validator(mode="after")
    def _one_scorer(self) -> Self:
        if self.scorer:
            msg = "mbr orders responses by utility= and does not accept scorer="
            raise ValueError(msg)
        return self


def best_of_n(candidates: Sequence[Candidates], params: BestParams, scorers: Scorers) -> Iterator[Pair]:
    """Prefer the responses with the highest scores to those with the lowest."""
    pools = [c.responses[Text.SAMPLE][: params.n or None] for c in candidates]
    asked = [c.scored(r.text) for c, pool in zip(candidates, pools, strict=True) for r in pool]
    scores = iter(scorers(params.scorer)(asked))
    for c, pool in zip(candidates, pools, strict=True):
        yield from _ranked(c.id, pool, [next(scores) for _ in pool], params.per_prompt)


def mbr(candidates: Sequence[Candidates], params: MBRParams, scorers: Scorers) -> Iterator[Pair]:
    """Prefer the responses that are most similar to the others to those that are least similar.

    The value of a response is its mean utility with each other response as the reference: the estimate that minimum
    Bayes risk decoding maximises (Eikema and Aziz 2020, 2020.coling-main.398).
    """
    pools = [(c, c.responses[Text.SAMPLE]) for c in candidates]
    asked = [
        c.scored(mine.text, references=(other.text,))
        for c, pool in pools
        for i, mine in enumerate(pool)
        for j, other in enumerate(pool)
        if i != j
    ]
    utilities = iter(scorers(params.utility)(asked))
    for c, pool in pools:
        worth = [fmean([next(utilities) for _ in pool[1:]] or [math.nan]) for _ in pool]
        yield from _ranked(c.id, pool, worth, params.per_prompt)


def _ranked(id_: str, pool: Sequence[Response], scores: Sequence[float], most: int) -> Iterator[Pair]:
    """At most `most` pairs, the i-th best over the i-th worst; a response without a score makes margins NaN."""
    ordered = sorted(range(len(pool)), key=lambda i: -scores[i])
    unknown = any(math.isnan(score) for score in scores)
    for best, worst in list(zip(ordered, reversed(ordered), strict=True))[: min(most, len(pool) // 2)]:
        margin = math.nan if unknown else scores[best] - scores[worst]
        yield Pair(id=id_, chosen=pool[best], rejected=pool[worst], margin=margin)


RECORDS = (
    PairBuilder(
        name="best-of-n",
        summary="The best of the off-policy samples over the worst, by a scorer.",
        needs=frozenset({Text.SAMPLE}),
        params=BestParams,
        samples=lambda params: max(2, params.n, 2 * params.per_prompt),
        build=best_of_n,
    ),
    PairBuilder(
        name="mbr",
        summary="The off-policy sample most similar to the others over the least similar one (minimum Bayes risk).",
        needs=frozenset({Text.SAMPLE}),
        params=MBRParams,
        scorer=lambda params: params.utility,
        # with two responses, a symmetric utility gives both the same value
        samples=lambda params: max(3, 2 * params.per_prompt),
        build=mbr,
    ),
)
