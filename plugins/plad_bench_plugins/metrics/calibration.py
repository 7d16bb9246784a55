"""Sequence-level calibration, which PLaD aims to improve: whether better texts are more likely under the student."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from plad_bench import LanguageModel, Metric, Need, Params, Response, Scored, Tools, param
from plad_bench.contract.words import canonical


class SampleParams(Params):
    """Parameters of sampling from the student."""

    temperature: float = param(0.7, gt=0, source="ours, as PLaD's samples here")
    """Sampling temperature. Likelihoods are always computed at temperature 1."""
    top_k: int = param(40, ge=0, source="ours, as PLaD's samples here")
    """Tokens are sampled from the k most likely; 0: from all."""
    seed: int = param(0, ge=0, source="ours")
    """Seed of the sampling, equal for every cell."""


class CalibrationParams(SampleParams):
    """Parameters of calibration."""

    scorer: str = param("rouge-l", source="ours")
    """Selector of the metric that measures the quality of a text."""
    samples: int = param(8, ge=2, source="ours")
    """Texts per prompt."""
    rank: Literal["kendall", "spearman"] = param("kendall", source="ours")
    """Kendall's tau-b, or Spearman's rho; both account for ties."""


class PreferenceParams(SampleParams):
    """Parameters of preference-accuracy."""

    logprob: Literal["mean", "sum"] = param("mean", source="ours")
    """Log-probability per token, or of the whole text."""


def calibration(examples: Sequence[Scored], params: CalibrationParams, tools: Tools) -> list[float]:
    """Rank correlation of log q(y|x)/|y| and the scorer's value over the distinct samples of each prompt.

    NaN if all samples are equal, or equally good.
    """
    model = tools.checkpoint()
    drawn = _samples(model, examples, params, params.samples)
    texts = [(e, y) for e, own in zip(examples, drawn, strict=True) for y in own]
    quality = tools(params.scorer)([replace(e, response=y.text) for e, y in texts])
    rows = zip(_likelihoods(model, texts, "mean"), quality, strict=True)
    return [correlation([next(rows) for _ in own], params.rank) for own in drawn]


def correlation(points: Sequence[tuple[float, float]], rank: str) -> float:
    """Kendall's tau-b or Spearman's rho of (x, y) over points with a y; NaN if x or y is constant."""
    from scipy import stats

    points = [point for point in points if not any(map(math.isnan, point))]
    if len({x for x, _ in points}) < 2 or len({y for _, y in points}) < 2:
        return math.nan
    function = stats.kendalltau if rank == "kendall" else stats.spearmanr
    return float(function(*zip(*points, strict=True)).statistic)


def preference_accuracy(examples: Sequence[Scored], params: PreferenceParams, tools: Tools) -> list[float]:
    """1 if the teacher's response is more likely under the student than a sample of its own, 0.5 on a tie, else 0.

    NaN if both are the same text, or one has no tokens.
    """
    model = tools.checkpoint()
    own = [(e, drawn[0]) for e, drawn in zip(examples, _samples(model, examples, params, 1), strict=True)]
    teacher = [(e, tools.teacher_response(e)) for e in examples]
    values = zip(_likelihoods(model, teacher, params.logprob), _likelihoods(model, own, params.logprob), strict=True)
    return [
        math.nan
        if canonical(ours.text) == canonical(theirs.text) or math.isnan(p - q)
        else 0.5 * (1 + (p > q) - (p < q))
        for (_, theirs), (_, ours), (p, q) in zip(teacher, own, values, strict=True)
    ]


def _samples(
    model: LanguageModel, examples: Sequence[Scored], params: SampleParams, count: int
) -> list[list[Response]]:
    """The distinct samples among `count` for each prompt."""
    prompts = [e.prompt for e in examples for _ in range(count)]
    drawn = iter(model.sample(prompts, temperature=params.temperature, top_k=params.top_k, seed=params.seed))
    return [list({(y.text, y.finished): y for y in (next(drawn) for _ in range(count))}.values()) for _ in examples]


def _likelihoods(model: LanguageModel, texts: Sequence[tuple[Scored, Response]], logprob: str) -> list[float]:
    """Log-probability of each text, per token or summed; NaN without tokens. A truncated text has no end token."""
    rows = model.logprobs([(e.prompt, y) for e, y in texts])
    return [float(row.mean() if logprob == "mean" else row.sum()) if len(row) else math.nan for row in rows]


RECORDS = (
    Metric(
        name="calibration",
        summary="Rank correlation between likelihood and quality of the student's own samples.",
        better="higher",
        cost="8 samples per prompt, and a forward pass over them",
        formula="tau over the distinct samples y of the prompt, between log q(y|x)/|y| and scorer(y); NaN if all are "
        "equal or equally good",
        needs=frozenset({Need.CHECKPOINT}),
        params=CalibrationParams,
        score=calibration,
    ),
    Metric(
        name="preference-accuracy",
        summary="Share of prompts whose teacher response is more likely under the student than a sample of its own.",
        better="higher",
        unit="%",
        cost="a sample per prompt, and a forward pass over two texts",
        formula="1 if log q(y_T|x)/|y_T| > log q(y_S|x)/|y_S| for y_S sampled from q, 0.5 on a tie, else 0; "
        "logprob=sum does not divide by lengths; NaN where y_T = y_S",
        needs=frozenset({Need.CHECKPOINT, Need.TEACHER}),
        params=PreferenceParams,
        score=preference_accuracy,
    ),
)
