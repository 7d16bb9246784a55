"""PLaD with an external ranker: pairs of teacher responses and off-policy samples, ordered by a scorer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from plad_bench import Candidates, Pair, PairBuilder, PairParams, Scorers, Text, param
from plad_bench_plugins.pairs.over_student import over_samples


class RerankedParams(PairParams):
    """Parameters of reranked."""

    scorer: str = param("rouge-l", min_length=1, source="ours; the paper's ranker is unknown to us")
    """Selector of the metric that determines the preferred response."""


def build(candidates: Sequence[Candidates], params: RerankedParams, scorers: Scorers) -> Iterator[Pair]:
    """PLaD's pairs, swapped if the scorer prefers the off-policy sample (arXiv:2406.02886)."""
    by_id = {c.id: c for c in candidates}
    pairs = list(over_samples(candidates, Text.TEACHER))
    scores = iter(scorers(params.scorer)([by_id[p.id].scored(r.text) for p in pairs for r in (p.chosen, p.rejected)]))
    for pair in pairs:
        lead = next(scores) - next(scores)
        turned = replace(pair, chosen=pair.rejected, rejected=pair.chosen) if lead < 0 else pair
        yield replace(turned, margin=abs(lead))


RECORDS = (
    PairBuilder(
        name="reranked",
        summary="The teacher's response and the off-policy sample, ordered by a scorer.",
        needs=frozenset({Text.TEACHER, Text.SAMPLE}),
        params=RerankedParams,
        build=build,
    ),
)
