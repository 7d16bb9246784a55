"""What a run will ask of teachers that are no models of ours, in tokens and money, before anything is asked."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from plad_bench.contract.records import Example
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.ask import JOURNAL
from plad_bench.execute.stages.data import split
from plad_bench.execute.stages.files import Prompt, read_prompts
from plad_bench.execute.store import Store
from plad_bench.plan.matrix import Cell
from plad_bench.plan.stages import Stage

BYTES_PER_TOKEN = 4
"""Of a prompt, about: English text under a large vocabulary."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """What one stage has still to ask."""

    teacher: str
    stage: str
    questions: int
    """Prompts, times the samples of each."""
    answered: int
    """Of these, by an earlier run."""
    tokens_in: int
    """About, of what is not answered yet."""
    tokens_out: int
    """At most."""
    paid: bool
    """Whether asking costs money."""
    money: float | None
    """At most, in the currency of the prices; None if they are not known."""


def estimates(cells: Iterable[Cell], store: Store) -> list[Estimate]:
    """One for each stage that is to ask a teacher; reads the task's data where no earlier run did."""
    found: dict[str, Estimate] = {}
    for cell in cells:
        for stage in cell.stages:
            if stage.operation == "ask" and stage.key not in found and store.find(stage.key) is None:
                found[stage.key] = _estimate(cell, stage, store)
    return list(found.values())


def _estimate(cell: Cell, stage: Stage, store: Store) -> Estimate:
    teacher = cell.teacher
    prompts = _prompts(cell, stage, store)
    journal = store.partial(stage.key) / JOURNAL
    lines = journal.read_bytes().splitlines() if journal.is_file() else []
    questions = len(prompts) * stage.spec.get("samples", 1)
    answered = min(questions, sum(bool(line.strip()) for line in lines))
    left = questions - answered
    price = teacher.component.price(teacher.params) if teacher.component.price else None
    size = sum(len(p.prompt.encode()) for p in prompts) / BYTES_PER_TOKEN * left / max(1, len(prompts))
    tokens_in = round(size + left * (price.extra_in if price else 0))
    tokens_out = left * (stage.spec["max_new_tokens"] + (price.extra_out if price else 0))
    return Estimate(
        teacher=teacher.label,
        stage=stage.name,
        questions=questions,
        answered=answered,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        paid=teacher.component.price is not None,
        money=price.of(tokens_in, tokens_out) if price else None,
    )


def _prompts(cell: Cell, stage: Stage, store: Store) -> Sequence[Prompt]:
    name, limit = stage.spec["split"], stage.spec.get("limit", 0)
    data = store.find(stage.inputs["data"].key)
    if data is not None:
        return read_prompts(data, name, limit)
    task = cell.task
    task.component.require(task.params)
    examples = (e for e in resolve(task.component.load)(task.params) if isinstance(e, Example))
    return list(itertools.islice((p for p in split(examples) if p.split == name), limit or None))
