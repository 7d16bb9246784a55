"""Claims about metrics and pair builders."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from plad_bench.conformance.claims import claim, default_params, see
from plad_bench.contract import enums, examples
from plad_bench.contract.registry import resolve

_RESPONSES = ("a red house by the river", "", "house house house house", 'odd <b>|text|</b>\n"\u00e9\u4e2d"', "a red")


def _scored_examples() -> list[examples.Scored]:
    return [
        examples.Scored(
            id=f"example-{i}",
            prompt=f"Say something, {i}.",
            references=("a red house by the river", "a house"),
            meta={},
            response=response,
            teacher="a red house",
        )
        for i, response in enumerate(_RESPONSES)
    ]


def _words(selector: str) -> Callable[[Any], list[float]]:
    """A substitute for any scorer: the number of words."""
    return lambda examples: [float(len(e.response.split())) for e in examples]


def _reads_text(metric: Any) -> bool:
    return not metric.needs - {enums.Need.TEACHER, enums.Need.REFERENCES}


def _values(metric: Any, examples: list[examples.Scored]) -> list[float]:
    params = default_params(metric)
    metric.require(params)
    given = resolve(metric.score)(examples, params, _words)
    return [float(value) for value in (given.values() if isinstance(given, Mapping) else given)]


@claim(
    "`better` is higher, lower or None",
    "metric",
    remedy="None reports the metric without ranking by it.",
)
def _direction(metric: Any) -> None:
    see(metric.better in {"higher", "lower", None}, f"`better` is {metric.better!r}")


@claim(
    "every example has a finite value, or NaN",
    "metric",
    remedy="Return one value for each example, in their order: NaN where it has none, as for an empty response, and "
    "never infinity.",
    applies=_reads_text,
)
def _scored(metric: Any) -> None:
    examples = _scored_examples()
    values = _values(metric, examples)
    see(len(values) == len(examples), f"{len(values)} values for {len(examples)} examples")
    see(not any(map(math.isinf, values)), f"an infinite value among {values}")


@claim(
    "an example has the same value in any order of the examples",
    "metric",
    remedy="Compute each value from its own example alone; draw random numbers, if any, from a generator that is "
    "seeded by `example.id`.",
    applies=_reads_text,
)
def _repeats(metric: Any) -> None:
    examples = _scored_examples()
    one, other = _values(metric, examples), _values(metric, examples[::-1])[::-1]
    same = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))
    see(same, f"{one}, then {other}")


def _candidates(samples: int) -> list[examples.Candidates]:
    def responses(*texts: str) -> tuple[examples.Response, ...]:
        return tuple(examples.Response(text=text) for text in texts)

    return [
        examples.Candidates(
            id=f"example-{i}",
            prompt=f"Say something, {i}.",
            responses={
                enums.Text.REFERENCE: responses("a red house by the river", "a house"),
                enums.Text.TEACHER: responses(f"a house by river {i}"),
                enums.Text.SAMPLE: responses(*("a house " + "and another " * (n + i) for n in range(samples))),
            },
        )
        for i in range(4)
    ]


@claim(
    "it builds pairs of the examples that it is given",
    "pair builder",
    remedy="Yield plad_bench.Pair(id=candidate.id, chosen=..., rejected=...) with two of the candidate's responses.",
)
def _built(builder: Any) -> None:
    params = default_params(builder)
    candidates = _candidates(max(2, builder.samples(params)))
    made = list(resolve(builder.build)(candidates, params, _words))
    see(made, f"no pair from {len(candidates)} examples")
    see(all(isinstance(pair, examples.Pair) for pair in made), "it yields something that is no plad_bench.Pair")
    unknown = {pair.id for pair in made} - {c.id for c in candidates}
    see(not unknown, f"pairs with an unknown id: {', '.join(sorted(unknown))}")
