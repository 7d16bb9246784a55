"""The score stage: one metric's value for every example of one cell."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Scored
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.files import VALUES, read_prompts, read_responses, scored
from plad_bench.execute.worker import Context
from plad_bench.plan.spec import Chosen, choose


def run(context: Context) -> None:
    """Write values.json: example id -> value, null where the example has none."""
    metric = context.chosen("metric")
    made = context.inputs["responses"].manifest["document"]["spec"]
    prompts = read_prompts(context.inputs["data"], made["split"], made.get("limit", 0))
    responses = read_responses(context.inputs["responses"], prompts)
    teacher = read_responses(context.inputs["teacher"], prompts) if "teacher" in context.inputs else {}
    examples = [scored(p, responses[p.id][0].text, teacher[p.id][0].text if teacher else None) for p in prompts]
    values = evaluate(context, metric, examples)
    by_id = {e.id: None if math.isnan(v) else v for e, v in zip(examples, values, strict=True)}
    (context.out / VALUES).write_text(json.dumps(by_id))


def evaluate(context: Context, metric: Chosen, examples: Sequence[Scored]) -> list[float]:
    """The metric's values.

    Raises:
        StageError: if it does not yield one finite number (or NaN) per example.
    """
    values = [float(v) for v in resolve(metric.component.score)(examples, metric.params, _Scorers(context))]
    if len(values) != len(examples):
        raise StageError(f"metric {metric.label} gave {len(values)} values for {len(examples)} examples")
    if any(math.isinf(v) for v in values):
        raise StageError(f"metric {metric.label} gave an infinite value")
    return values


class _Scorers:
    """Selector of a metric -> its scoring function, oriented so that higher is better."""

    def __init__(self, context: Context) -> None:
        self.context = context

    def __call__(self, selector: str) -> Callable[[Sequence[Scored]], Sequence[float]]:
        (metric,) = choose(self.context.registry, "metric", selector)
        return _oriented(self.context, metric)


def scorer_of(context: Context, named: Mapping[str, Any]) -> Callable[[Sequence[Scored]], Sequence[float]]:
    """The scorer that a job names."""
    return _oriented(context, context.chosen("scorer", named))


def _oriented(context: Context, metric: Chosen) -> Callable[[Sequence[Scored]], Sequence[float]]:
    if metric.component.better is None:
        raise StageError(f"metric {metric.label} has no direction, so it cannot serve as a scorer")
    sign = 1.0 if metric.component.better == "higher" else -1.0

    def score(examples: Sequence[Scored]) -> list[float]:
        return [sign * value for value in evaluate(context, metric, examples)]

    return score
