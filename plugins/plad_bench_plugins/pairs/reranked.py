"""PLaD with an external ranker: teacher's and student's response in the order that a scorer gives them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from plad_bench import Candidates, Pair, PairBuilder, PairParams, Scorers, Text, param
from plad_bench_plugins.pairs.over_student import over_samples


class RerankedParams(PairParams):
    """Parameters of reranked."""

    scorer: str = param("rouge-l", min_length=1, source="ours; the paper's ranker is unknown to us")
    """Selector of the metric that decides which response is the better one."""


def build(candidates: Sequence[Candidates], params: RerankedParams, scorers: Scorers) -> Iterator[Pair]:
    """PLaD's pairs, turned round where the scorer prefers the student's response (arXiv:2406.02886)."""
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
        summary="Teacher's response and the student's sample, ordered by a scorer instead of taken on trust.",
        needs=frozenset({Text.TEACHER, Text.SAMPLE}),
        params=RerankedParams,
        build=build,
    ),
)
