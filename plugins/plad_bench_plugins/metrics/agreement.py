"""Agreement: how often student and teacher give the same response."""

from __future__ import annotations

import math
from collections.abc import Sequence

from plad_bench import Metric, Params, Scored, Scorers
from plad_bench.contract.words import canonical


def score(examples: Sequence[Scored], params: Params, scorers: Scorers) -> list[float]:
    """1 if the response equals the teacher's up to white space, else 0; NaN without a teacher's response."""
    return [math.nan if e.teacher is None else float(canonical(e.response) == canonical(e.teacher)) for e in examples]


RECORDS = (
    Metric(
        name="agreement",
        summary="Share of responses equal to the teacher's, white space aside.",
        better="higher",
        unit="%",
        needs=frozenset({"teacher"}),
        cost="text alone",
        formula="1 if the words of response and teacher's response are equal, else 0",
        score=score,
    ),
)
