"""ROUGE: overlap of a response with the references, by words, word pairs or longest common subsequence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from plad_bench import Metric, Need, Params, Scored, Scorers, param


class RougeParams(Params):
    """Parameters of the ROUGE metrics."""

    use_stemmer: bool = param(True, source="scripts of the summarisation field; the rouge-score package says False")
    """Compare the Porter stems of words longer than three letters."""


class _Tokenizer:
    """The package's own tokens, each distinct word stemmed once: stemming is nine tenths of the time otherwise."""

    def __init__(self, params: RougeParams) -> None:
        from rouge_score.tokenizers import DefaultTokenizer

        self._tokens_of = cache(DefaultTokenizer(params.use_stemmer).tokenize)

    def tokenize(self, text: str) -> list[str]:
        """Lower-case runs of a-z and 0-9; whatever else there is separates them."""
        return [token for word in text.split() for token in self._tokens_of(word)]


def _score(kind: str, examples: Sequence[Scored], params: RougeParams) -> list[float]:
    """F-measure of 0 to 1, the best over the references; NaN for an example without references (Lin 2004).

    Text without a letter a-z or a digit has no tokens and scores 0, even against itself.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_Tokenizer(params))
    return [
        max((float(scorer.score(reference, e.response)[kind].fmeasure) for reference in e.references), default=math.nan)
        for e in examples
    ]


def rouge_1(examples: Sequence[Scored], params: RougeParams, scorers: Scorers) -> list[float]:
    """Overlap of single words."""
    return _score("rouge1", examples, params)


def rouge_2(examples: Sequence[Scored], params: RougeParams, scorers: Scorers) -> list[float]:
    """Overlap of pairs of neighbouring words."""
    return _score("rouge2", examples, params)


def rouge_l(examples: Sequence[Scored], params: RougeParams, scorers: Scorers) -> list[float]:
    """Longest common subsequence of words over the whole text, line breaks ignored."""
    return _score("rougeL", examples, params)


RECORDS = (
    Metric(
        name="rouge-1",
        summary="ROUGE-1: F-measure of shared words, best over the references.",
        better="higher",
        unit="%",
        params=RougeParams,
        cost="text alone",
        needs=frozenset({Need.REFERENCES}),
        formula="2PR/(P+R) of shared words with a reference, the best over the references (Lin 2004)",
        score=rouge_1,
    ),
    Metric(
        name="rouge-2",
        summary="ROUGE-2: F-measure of shared word pairs, best over the references.",
        better="higher",
        unit="%",
        params=RougeParams,
        cost="text alone",
        needs=frozenset({Need.REFERENCES}),
        formula="2PR/(P+R) of shared pairs of neighbouring words, the best over the references",
        score=rouge_2,
    ),
    Metric(
        name="rouge-l",
        summary="ROUGE-L: F-measure of the longest common subsequence of words, best over the references.",
        better="higher",
        unit="%",
        params=RougeParams,
        cost="text alone",
        needs=frozenset({Need.REFERENCES}),
        formula="2PR/(P+R) of the longest common subsequence of words, the best over the references",
        score=rouge_l,
    ),
)
