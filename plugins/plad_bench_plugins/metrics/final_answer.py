"""Whether a worked solution ends in the right number."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation

from plad_bench import Metric, Need, Params, Scored, Scorers

_NUMBER = re.compile(r"-?\d[\d,]*(?:\.\d+)?|-?\.\d+")


def score(examples: Sequence[Scored], params: Params, scorers: Scorers) -> list[float]:
    """1 where the response's final number is that of a reference, else 0; NaN if no reference has a number."""
    return [_right(example) for example in examples]


def final_number(text: str) -> Decimal | None:
    """The first number after the last ####, or else the last number of the text; None if there is none."""
    _, mark, after = text.rpartition("####")
    found = _NUMBER.findall(after)
    if not found:
        return None
    try:
        return Decimal((found[0] if mark else found[-1]).replace(",", "")).normalize()
    except InvalidOperation:
        return None


def _right(example: Scored) -> float:
    wanted = {number for reference in example.references if (number := final_number(reference)) is not None}
    return float(final_number(example.response) in wanted) if wanted else math.nan


RECORDS = (
    Metric(
        name="final-answer",
        summary="Share of responses whose final number is a reference's.",
        better="higher",
        unit="%",
        cost="text alone",
        needs=frozenset({Need.REFERENCES}),
        formula="1 if the response's final number (after the last ####, or the last) is that of a reference, else 0",
        score=score,
    ),
)
