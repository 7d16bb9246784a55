"""What a task without references cannot have: methods, pairs and metrics that read them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plad_bench.contract.enums import Need, Text
from plad_bench.contract.objectives import TokenObjective

if TYPE_CHECKING:
    from plad_bench.plan.matrix import Cell
    from plad_bench.plan.spec import Chosen


def has_references(task: Chosen) -> bool:
    """Whether the examples of a task have references."""
    return bool(task.component.references(task.params))


def why_unrunnable(cell: Cell) -> str:
    """Why a cell cannot run without references; empty if it can, or if its task has some."""
    if has_references(cell.task):
        return ""
    reader = next(_readers(cell), "")
    return f"{reader}, and the task has none" if reader else ""


def _readers(cell: Cell) -> Iterator[str]:
    """Who reads references on the way to a cell's checkpoint, and what for."""
    training = cell.teacher.component.training(cell.teacher.params)
    if training is not None and training.steps:
        yield f"{cell.teacher.label} learns from references first"
    if cell.method is None:
        return
    name, objective, params = cell.method.component.name, cell.method.component.objective, cell.method.params
    if isinstance(objective, TokenObjective):
        if Text.REFERENCE in objective.texts(params):
            yield f"{name} trains on references"
        if objective.schedule is not None and objective.schedule.validates:
            yield f"{name} follows the loss on validation references"
    if cell.pairs is not None and Text.REFERENCE in cell.pairs.component.needs:
        yield f"{cell.pairs.label} makes pairs with references"
    if cell.scorer is not None and reads_references(cell.scorer):
        yield f"{name} trains on scores by {cell.scorer.label}, which reads references"


def why_absent(cell: Cell, metric: Chosen) -> str:
    """Why a metric cannot be had without references; empty if it can."""
    if has_references(cell.task) or not reads_references(metric):
        return ""
    return f"{metric.component.name} reads references, and the task has none"


def reads_references(metric: Chosen) -> bool:
    """Whether a metric, or the one that it scores by, has no value without them."""
    return Need.REFERENCES in metric.component.needs or (metric.scorer is not None and reads_references(metric.scorer))
