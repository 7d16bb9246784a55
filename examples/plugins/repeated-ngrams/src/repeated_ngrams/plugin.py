"""What plad-bench loads: the record of the metric."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from plad_bench import Metric, Params, Scored, Tools, hookimpl, param

from repeated_ngrams.ngrams import repeated

PLAD_BENCH_API = 2


class RepeatedParams(Params):
    """Parameters of repeated-ngrams."""

    n: int = param(3, ge=1, source="ours")
    """Words of an n-gram."""


def score(examples: Sequence[Scored], params: RepeatedParams, tools: Tools) -> list[float]:
    """The share of repeated n-grams of each response, NaN where it is too short."""
    return [repeated(example.response, params.n) for example in examples]


METRIC = Metric(
    name="repeated-ngrams",
    summary="Share of the response's n-grams that occurred in it before.",
    version=1,
    params=RepeatedParams,
    better="lower",
    unit="%",
    formula="1 - |distinct n-grams of y| / |n-grams of y|",
    score=score,
)


@hookimpl
def plad_bench_metrics() -> Iterator[Metric]:
    """Register repeated-ngrams."""
    yield METRIC
