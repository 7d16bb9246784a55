"""Claims about tasks, students and teachers."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

from plad_bench.conformance.claims import claim, default_params, see
from plad_bench.contract import enums, examples, models
from plad_bench.contract.registry import resolve

_LOOKED_AT = 200
"""Number of examples of a task to read."""
_PROMPTS = [f"Say something, {i}." for i in range(5)]


@claim(
    "each example has a prompt, references that are text, and metadata that are JSON",
    "task",
    remedy="Yield plad_bench.Example(prompt=TEXT, references=(TEXT, ...), meta={...}), and plad_bench.BadRow for a row "
    "that is no example.",
)
def _examples_of(task: Any) -> None:
    params = default_params(task)
    task.require(params)
    rows: Iterable[Any] = itertools.islice(resolve(task.load)(params), _LOOKED_AT)
    found = []
    for row in rows:
        see(isinstance(row, examples.Loaded), f"it yields {type(row).__name__}")
        found += [row] if isinstance(row, examples.Example) else []
    see(
        len({e.prompt for e in found}) > 1,
        f"{len(found)} examples, not two different prompts",
        "Yield more examples: prompts are divided into training, validation and test.",
    )
    for example in found:
        see(example.prompt.strip(), "a prompt is empty")
        see(isinstance(example.references, tuple), f"references are a {type(example.references).__name__}")
        see(all(isinstance(r, str) and r.strip() for r in example.references), f"references {example.references!r}")
        json.dumps(example.meta, allow_nan=False)


@claim(
    "it names its data set and the licence of that",
    "task",
    remedy='Give `dataset` (an id on the hub, or a citation) and `licence`, such as "CC-BY-4.0".',
)
def _licensed(task: Any) -> None:
    see(task.dataset and task.licence, "dataset or licence is empty")


def _model(component: Any) -> None:
    source = component.model(default_params(component))
    see(isinstance(source, models.ModelSource), f"`model` returns {type(source).__name__}")


_MODEL_REMEDY = 'Return plad_bench.HubModel(id="ORG/NAME") or plad_bench.ScratchModel(...).'
claim("`model` returns the source of a model", "student", remedy=_MODEL_REMEDY)(_model)
claim(
    "`model` returns the source of a model",
    "teacher",
    remedy=_MODEL_REMEDY,
    applies=lambda teacher: bool(teacher.model),
)(_model)


@claim(
    "`provides` says what methods can get from it",
    "teacher",
    remedy="Give a frozenset of plad_bench.Access: frozenset({Access.TEXT}) for a teacher of text, "
    "frozenset({Access.TEXT, Access.LOGITS}) for a model that plad-bench loads.",
)
def _provides(teacher: Any) -> None:
    see(
        teacher.provides and teacher.provides <= set(enums.Access),
        f"`provides` is {set(teacher.provides) or 'empty'}",
    )


@claim(
    "it answers every request",
    "teacher",
    remedy="Yield for each request, in order, a sequence of plad_bench.Response. A teacher that needs a server or a "
    "key is not `immediate`.",
    applies=lambda teacher: teacher.immediate,
)
def _answers(teacher: Any) -> None:
    from plad_bench.testing import answers

    given = answers(teacher, _PROMPTS, **default_params(teacher).model_dump())
    see(all(given), f"{sum(map(bool, given))} of {len(given)} requests have an answer")
