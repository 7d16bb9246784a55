"""Diversity: repetition within a response, between the samples of a prompt, and between all responses of a student."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence

from plad_bench import Metric, Params, Scored, Tools, param
from plad_bench.contract.words import words


class DistinctParams(Params):
    """Parameters of distinct."""

    n: int = param(2, ge=1, source="Li et al. 2016 (arXiv:1510.03055): 1 and 2")
    """Words of an n-gram."""


class RepetitionParams(Params):
    """Parameters of self-repetition."""

    n: int = param(4, ge=1, source="Salkar et al. 2022 (arXiv:2210.08145): 4 or longer")
    """Words of an n-gram."""


def distinct(examples: Sequence[Scored], params: DistinctParams, tools: Tools) -> list[float]:
    """Distinct n-grams per n-gram within each response; NaN if it has fewer than n words.

    The published distinct-n counts over all responses together. It is not a mean over examples and decreases with their
    number; this one is computed within each response.
    """
    grams = [_grams(e, params.n) for e in examples]
    return [len(set(own)) / len(own) if own else math.nan for own in grams]


def sample_diversity(examples: Sequence[Scored], params: DistinctParams, tools: Tools) -> list[float]:
    """Distinct n-grams per n-gram of all samples of a prompt together; NaN if none has n words.

    Measured for each prompt, so that a model that gives every prompt its own fixed response is not called diverse.
    """
    of_prompt: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for example in examples:
        of_prompt[example.id] += _grams(example, params.n)
    shares = {id_: len(set(own)) / len(own) if own else math.nan for id_, own in of_prompt.items()}
    return [shares[e.id] for e in examples]


def self_repetition(examples: Sequence[Scored], params: RepetitionParams, tools: Tools) -> list[float]:
    """Share of each response's n-grams that another response of the cell also has; NaN with fewer than n words.

    The source counts such n-grams, while a share does not depend on the length of responses. It increases with their
    number, which is the same for all cells of a board.
    """
    grams = [_grams(e, params.n) for e in examples]
    users = Counter(gram for own in grams for gram in set(own))
    return [sum(users[gram] > 1 for gram in own) / len(own) if own else math.nan for own in grams]


def _grams(example: Scored, n: int) -> list[tuple[str, ...]]:
    own = words(example.response.lower())
    return [tuple(own[i : i + n]) for i in range(len(own) - n + 1)]


RECORDS = (
    Metric(
        name="distinct",
        summary="Distinct n-grams per n-gram within a response.",
        better=None,
        unit="%",
        cost="text alone",
        formula="distinct n-grams / n-grams of the response, in lower-case words. Not the corpus-wide distinct-n, "
        "which is not a mean over examples",
        params=DistinctParams,
        score=distinct,
    ),
    Metric(
        name="sample-diversity",
        summary="Distinct n-grams per n-gram of the samples of a prompt together; with --evaluate-samples.",
        better=None,
        unit="%",
        cost="text alone",
        formula="distinct n-grams / n-grams of all samples of the prompt, in lower-case words: distinct-n "
        "(arXiv:1510.03055) per input (arXiv:2310.06452). It decreases with the number and the length of samples",
        params=DistinctParams,
        of_samples=True,
        score=sample_diversity,
    ),
    Metric(
        name="self-repetition",
        summary="Share of a response's n-grams that other responses of the same student also have.",
        better=None,
        unit="%",
        cost="text alone",
        formula="n-grams of the response that occur in another response of the cell / n-grams of the response "
        "(after arXiv:2210.08145, which counts them)",
        params=RepetitionParams,
        score=self_repetition,
    ),
)
