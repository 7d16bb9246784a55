"""ROUGE: overlap of a response with the references, by words, word pairs or longest common subsequence."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache

from plad_bench import Metric, Need, Params, Scored, Scorers, UnmeasuredError, param
from plad_bench.contract.words import tokens


class RougeParams(Params):
    """Parameters of the ROUGE metrics."""

    use_stemmer: bool = param(True, source="scripts of the summarisation field; the rouge-score package uses False")
    """Compare the Porter stems of words with more than three letters."""


class _Tokenizer:
    """Words of any script, stemmed as in the package; for English text they equal the package's tokens."""

    def __init__(self, params: RougeParams) -> None:
        from nltk.stem.porter import PorterStemmer  # the package's

        # each distinct word once, since stemming takes nine tenths of the time otherwise
        self._stem: Callable[[str], str] = cache(PorterStemmer().stem) if params.use_stemmer else str

    def tokenize(self, text: str) -> list[str]:
        """The words of a text, stemmed if they have more than three letters."""
        return [self._stem(word) if len(word) > 3 else word for word in tokens(text)]


def _score(kind: str, examples: Sequence[Scored], params: RougeParams) -> list[float]:
    """F-measure of 0 to 1, the best over the references (Lin 2004).

    NaN for an example without references, or whose references have no words to compare (emojis, signs).

    Raises:
        UnmeasuredError: if there are references, and none of them has a word.
    """
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer([kind], tokenizer=_Tokenizer(params))
    readable = [[r for r in e.references if tokens(r) or not r.strip()] for e in examples]
    if any(e.references for e in examples) and not any(readable):
        raise UnmeasuredError("ROUGE compares words, and no reference has a letter or a digit")
    return [
        max((float(scorer.score(r, e.response)[kind].fmeasure) for r in references), default=math.nan)
        for e, references in zip(examples, readable, strict=True)
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
