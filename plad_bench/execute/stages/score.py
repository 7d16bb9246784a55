"""The score stage: one metric's value for every example of one cell."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plad_bench.contract.enums import Need
from plad_bench.contract.errors import StageError, UnmeasuredError
from plad_bench.contract.examples import Response, Scored
from plad_bench.contract.registry import resolve
from plad_bench.contract.tools import Scorer, Tools
from plad_bench.execute.stages.files import VALUES, Prompt, model_of, read_prompts, read_responses, scored
from plad_bench.execute.store import RESPONSE_CACHE
from plad_bench.execute.worker import Context
from plad_bench.plan.chosen import Chosen, choose

if TYPE_CHECKING:
    from plad_bench.contract.tools import LanguageModel


def run(context: Context) -> None:
    """Write values.json: example -> value, null if it has none; of samples, a list with the value of each."""
    metric = context.chosen("metric")
    made = context.inputs["responses"].manifest["document"]["spec"]
    prompts = read_prompts(context.inputs["data"], made["split"], made.get("limit", 0))
    responses = read_responses(context.inputs["responses"], prompts)
    teacher = read_responses(context.inputs["teacher"], prompts) if "teacher" in context.inputs else {}
    answered = [p for p in prompts if responses[p.id] and (not teacher or teacher[p.id])]
    examples = [scored(p, responses[p.id][0].text, teacher[p.id][0].text if teacher else None) for p in answered]
    if count := context.spec.get("samples", 0):
        _write(context, _of_samples(context, metric, answered, responses, teacher, count))
        return
    tools = _Tools(context, responses, teacher, [example.id for example in examples])
    try:
        values = measure(context, metric, examples, tools)
    except UnmeasuredError as error:
        context.notes["absent"] = error.message
        values = [math.nan] * len(examples)
    named = values if isinstance(values, Mapping) else dict(zip((e.id for e in examples), values, strict=True))
    unanswered = {p.id: math.nan for p in prompts} if len(answered) < len(prompts) else {}
    _write(context, {**unanswered, **named})


def _of_samples(  # noqa: PLR0917  everything that is read
    context: Context,
    metric: Chosen,
    prompts: Sequence[Prompt],
    responses: Mapping[str, tuple[Response, ...]],
    teacher: Mapping[str, tuple[Response, ...]],
    count: int,
) -> dict[str, list[float]]:
    """The metric's values of the samples of each prompt: as of greedy responses, or of all of a prompt together."""

    def examples(*rounds: int) -> list[Scored]:
        of_teacher = {p.id: teacher[p.id][0].text if teacher else None for p in prompts}
        return [scored(p, responses[p.id][n].text, of_teacher[p.id]) for p in prompts for n in rounds]

    try:
        if metric.component.of_samples:
            values = _one_each(context, metric, examples(*range(count)), _Tools(context))
            return {p.id: values[k * count : (k + 1) * count] for k, p in enumerate(prompts)}
        columns = []
        for n in range(count):
            sampled = {id_: (of[n],) for id_, of in responses.items()}
            columns.append(_one_each(context, metric, examples(n), _Tools(context, sampled, teacher)))
        return {p.id: [column[k] for column in columns] for k, p in enumerate(prompts)}
    except UnmeasuredError as error:
        context.notes["absent"] = error.message
        return {p.id: [math.nan] * count for p in prompts}


def _one_each(context: Context, metric: Chosen, examples: Sequence[Scored], tools: Tools) -> list[float]:
    values = measure(context, metric, examples, tools)
    if isinstance(values, dict):
        raise UnmeasuredError(f"{metric.label} brings its own examples, so it does not score samples")
    return values


def _write(context: Context, values: Mapping[str, float | list[float]]) -> None:
    def number(value: float) -> float | None:
        return None if math.isnan(value) else value

    by_id = {id_: [number(v) for v in of] if isinstance(of, list) else number(of) for id_, of in values.items()}
    (context.out / VALUES).write_text(json.dumps(by_id))


def measure(
    context: Context, metric: Chosen, examples: Sequence[Scored], tools: Tools
) -> list[float] | dict[str, float]:
    """The metric's value by example id, or by "metric:name" for examples that the metric brings.

    Raises:
        StageError: if the metric does not return one finite number or NaN per example.
    """
    given = resolve(metric.component.score)(examples, metric.params, tools)
    own = isinstance(given, Mapping)
    values = [float(v) for v in (given.values() if own else given)]
    if len(values) != len(examples) and not own:
        raise StageError(f"metric {metric.label} returned {len(values)} values for {len(examples)} examples")
    if any(math.isinf(v) for v in values):
        raise StageError(f"metric {metric.label} returned an infinite value")
    if own:
        return {f"{metric.component.name}:{name}": value for name, value in zip(given, values, strict=True)}
    return values


class _Tools(Tools):
    """The tools of this stage: its inputs, its device, its directories."""

    def __init__(
        self,
        context: Context,
        responses: Mapping[str, tuple[Response, ...]] | None = None,
        teacher: Mapping[str, tuple[Response, ...]] | None = None,
        examples: Sequence[str] = (),
    ) -> None:
        self._context, self._examples = context, examples
        self._responses, self._teacher = responses or {}, teacher or {}
        self._models: dict[str, LanguageModel] = {}
        self.device, self.kept, self.partial = context.device, context.out, context.partial
        self.response_cache = context.partial / RESPONSE_CACHE
        self.counts, self.budget, self.memory_policy = context.counts, context.budget, context.memory_policy

    def __call__(self, selector: str) -> Scorer:
        (metric,) = choose(self._context.registry, "metric", selector)
        return _oriented(self._context, metric, self)

    def checkpoint(self) -> LanguageModel:
        return self._load("checkpoint", Need.CHECKPOINT)

    def teacher(self) -> LanguageModel:
        return self._load("teacher_model", Need.TEACHER_LOGITS)

    def response(self, example: Scored) -> Response:
        return _first(self._responses, example, "the evaluated responses")

    def teacher_response(self, example: Scored) -> Response:
        return _first(self._teacher, example, Need.TEACHER)

    def scores(self) -> list[float]:
        if "scores" not in self._context.inputs:
            raise _undeclared(Need.SCORES)
        values = json.loads((self._context.inputs["scores"].path / VALUES).read_text())
        return [math.nan if values[e] is None else values[e] for e in self._examples or values]

    def progress(self, done: int, total: int) -> None:
        self._context.progress(done, total)

    def _load(self, role: str, need: str) -> LanguageModel:
        if role not in self._context.inputs:
            raise _undeclared(need)
        if role not in self._models:
            from plad_bench.learn.evaluation import Evaluated

            made = self._context.inputs["responses"].manifest["document"]["spec"]
            path = model_of(self._context.inputs[role], made if role == "checkpoint" else {})
            self._models[role] = Evaluated(
                path, self.device, made["precision"], made["max_new_tokens"], self.counts, self.memory_policy
            )
        return self._models[role]


def _first(responses: Mapping[str, tuple[Response, ...]], example: Scored, what: str) -> Response:
    if example.id not in responses:
        raise _undeclared(what)
    return responses[example.id][0]


def _undeclared(what: str) -> StageError:
    return StageError(f"a metric used {what}, which this stage does not have", "Declare it in the metric's needs.")


def scorer_of(context: Context, named: Mapping[str, Any]) -> Scorer:
    """The scorer named by the job."""
    return _oriented(context, context.chosen("scorer", named), _Tools(context))


def _oriented(context: Context, metric: Chosen, tools: Tools) -> Scorer:
    if metric.component.better is None:
        raise StageError(f"metric {metric.label} has no direction, so it cannot serve as a scorer")
    sign = 1.0 if metric.component.better == "higher" else -1.0

    def score(examples: Sequence[Scored]) -> list[float]:
        values = measure(context, metric, examples, tools)
        if isinstance(values, dict):
            raise StageError(f"metric {metric.label} brings its own examples, so it cannot serve as a scorer")
        return [sign * value for value in values]

    return score
