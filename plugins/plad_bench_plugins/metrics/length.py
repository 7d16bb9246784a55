"""Length of a response. It is reported and not ranked: calibrated students tend to write more."""

from __future__ import annotations

from collections.abc import Sequence

from plad_bench import Metric, Params, Scored, Scorers
from plad_bench.contract.words import words


def score(examples: Sequence[Scored], params: Params, scorers: Scorers) -> list[float]:
    """Number of words; see `plad_bench.contract.words`."""
    return [float(len(words(e.response))) for e in examples]


RECORDS = (
    Metric(
        name="length",
        summary="Number of words of the response.",
        better=None,
        unit="words",
        cost="text alone",
        formula="words: the runs between white space; in scripts without spaces each character",
        score=score,
    ),
)
