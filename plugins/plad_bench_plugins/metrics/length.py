"""Length of a response. Calibrated students tend to write more, so a board reports it and never ranks it."""

from __future__ import annotations

from collections.abc import Sequence

from plad_bench import Metric, Params, Scored, Scorers


def score(examples: Sequence[Scored], params: Params, scorers: Scorers) -> list[float]:
    """Number of runs of characters between white space."""
    return [float(len(e.response.split())) for e in examples]


RECORDS = (
    Metric(
        name="length",
        summary="Words of the response.",
        better=None,
        unit="words",
        cost="text alone",
        formula="runs of characters between white space",
        score=score,
    ),
)
