"""Win rates: how often a scorer prefers the student's response to another text for the same prompt."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean

from plad_bench import Metric, Need, Params, Scored, Scorers, param
from plad_bench.contract.words import canonical


class WinTeacherParams(Params):
    """Parameters of win-teacher."""

    scorer: str = param("rouge-l", source="ours")
    """Selector of the metric that scores both texts."""


class WinReferenceParams(Params):
    """Parameters of win-reference."""

    scorer: str = param("slot-errors", source="ours")
    """Selector of the metric that scores both texts."""


def win_teacher(examples: Sequence[Scored], params: WinTeacherParams, scorers: Scorers) -> list[float]:
    """1 if the response beats the teacher's, 0.5 on a tie, else 0; NaN if either has no score."""
    opponents = [replace(e, response=e.teacher or "") for e in examples]
    wins = _wins(examples, opponents, params.scorer, scorers)
    return [math.nan if e.teacher is None else win for e, win in zip(examples, wins, strict=True)]


def win_reference(examples: Sequence[Scored], params: WinReferenceParams, scorers: Scorers) -> list[float]:
    """Mean over the references of 1 if the response beats it, 0.5 on a tie, else 0; NaN without references.

    A scorer that reads the references would find every reference equal to itself. So both texts of a comparison are
    scored with the references that differ from the opponent, possibly none, for which such a scorer returns NaN.
    """
    comparisons = [[_against(e, reference) for reference in e.references] for e in examples]
    flat = [pair for pairs in comparisons for pair in pairs]
    wins = iter(_wins([mine for mine, _ in flat], [theirs for _, theirs in flat], params.scorer, scorers))
    return [fmean([next(wins) for _ in pairs]) if pairs else math.nan for pairs in comparisons]


def _against(example: Scored, reference: str) -> tuple[Scored, Scored]:
    """The response and a reference in its place, both without that reference among their references."""
    others = tuple(r for r in example.references if canonical(r) != canonical(reference))
    mine = replace(example, references=others)
    return mine, replace(mine, response=reference)


def _wins(mine: Sequence[Scored], theirs: Sequence[Scored], scorer: str, scorers: Scorers) -> list[float]:
    """1, 0.5 or 0 for each pair of texts, from one call of the scorer."""
    scores = scorers(scorer)([*mine, *theirs])
    return [_outcome(a, b) for a, b in zip(scores[: len(mine)], scores[len(mine) :], strict=True)]


def _outcome(mine: float, theirs: float) -> float:
    if math.isnan(mine) or math.isnan(theirs):
        return math.nan
    return 0.5 if mine == theirs else float(mine > theirs)


RECORDS = (
    Metric(
        name="win-teacher",
        summary="Share of responses that a scorer prefers to the teacher's; a tie counts half.",
        better="higher",
        unit="%",
        needs=frozenset({Need.TEACHER}),
        params=WinTeacherParams,
        cost="that of its scorer on two texts",
        formula="1 if scorer(y) > scorer(y_T), 0.5 on a tie, else 0",
        score=win_teacher,
    ),
    Metric(
        name="win-reference",
        summary="Share of references that a scorer finds worse than the response; a tie counts half.",
        better="higher",
        unit="%",
        needs=frozenset({Need.REFERENCES}),
        params=WinReferenceParams,
        cost="that of its scorer on two texts",
        formula="mean over the references r of 1 if scorer(y) > scorer(r), 0.5 on a tie, else 0; a scorer that "
        "reads references gets those that differ from r",
        score=win_reference,
    ),
)
