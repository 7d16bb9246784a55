"""Filters pairs by the method's parameters, and counts the dropped ones by reason."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

from plad_bench.contract.examples import Pair
from plad_bench.contract.params import PairParams
from plad_bench.contract.words import canonical, words


def sift(pairs: Iterable[Pair], params: PairParams) -> tuple[list[Pair], Counter[str]]:
    """The kept pairs in their order, and the number of pairs dropped by each reason; the first reason counts."""
    kept: list[Pair] = []
    dropped: Counter[str] = Counter()
    of_prompt: Counter[str] = Counter()
    for pair in pairs:
        reason = _reason(pair, params)
        if not reason and params.per_prompt and of_prompt[pair.id] >= params.per_prompt:
            reason = "surplus"
        if reason:
            dropped[reason] += 1
        else:
            of_prompt[pair.id] += 1
            kept.append(pair)
    return kept, dropped


def _reason(pair: Pair, params: PairParams) -> str:
    chosen, rejected = pair.chosen.text, pair.rejected.text
    fewer, more = sorted((len(words(chosen)), len(words(rejected))))
    identical = canonical(chosen) == canonical(rejected)
    margin = math.inf if pair.margin is None else pair.margin
    reasons = {
        "identical": identical and not params.keep_identical,
        "length": fewer < params.min_words or (params.max_words is not None and more > params.max_words),
        "ratio": params.max_ratio is not None and more > params.max_ratio * fewer,
        "unscored": math.isnan(margin),
        "tie": margin == 0 and not identical,
        "margin": margin < (params.margin or 0),
    }
    return next((reason for reason, holds in reasons.items() if holds), "")
