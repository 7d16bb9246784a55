"""Refuses settings that would waste a run with pretrained models, unless `--force` is given."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from plad_bench.contract.errors import UsageError
from plad_bench.plan import recipes
from plad_bench.plan.published import is_instruct
from plad_bench.plan.reference_free import has_references

if TYPE_CHECKING:
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen
    from plad_bench.plan.recipes import Recipe

FORCE = "To run it anyway, use --force."


def check(cells: Iterable[Cell]) -> None:
    """Refuse pretrained weights with a learning rate for random ones, and base teachers without fine-tuning.

    Raises:
        UsageError: for the first cell with such a setting.
    """
    for cell in cells:
        _check_rates(cell)
        _check_teacher(cell.teacher, cell.task)


def _check_rates(cell: Cell) -> None:
    """Check that no learning rate of the cell exceeds the limit of its recipe."""
    student, teacher = recipes.published(cell.student), recipes.published(cell.teacher)
    if student is not None:
        recipe = recipes.of_model(student, lora=cell.protocol.lora)
        for option, rate in _rates(cell):
            _check_rate(cell.student.label, option, rate, recipe)
    training = cell.teacher.component.training(cell.teacher.params)
    if teacher is not None and training is not None and training.steps:
        recipe = recipes.of_model(replace(teacher, layers=""), lora=training.lora)
        _check_rate(cell.teacher.label, "the teacher's lr", training.lr, recipe)


def _rates(cell: Cell) -> Iterator[tuple[str, float]]:
    """The learning rates of a cell's student, each with the option that sets it."""
    if cell.method is None and cell.row != "sft-init":
        return
    if cell.protocol.sft_steps:
        yield "--sft-lr", cell.protocol.sft_lr
    if cell.method is not None:
        own: float = cell.method.params.lr  # type: ignore[attr-defined]
        yield (f"lr of {cell.method.component.name}", own) if own else ("--lr", cell.protocol.lr)


def _check_rate(model: str, what: str, rate: float, recipe: Recipe) -> None:
    if rate > recipe.highest_lr:
        raise UsageError(
            f"a learning rate of {rate:g} ({what}) is too high for the pretrained model {model}: for "
            f"{recipes.KINDS[recipe.kind]} with {recipe.size} parameters the maximum is {recipe.highest_lr:g}",
            f"Use a lower rate or the recipe's default; if the board fixes the rate, choose another --board. {FORCE}",
        )


def _check_teacher(teacher: Chosen, task: Chosen) -> None:
    """Check that a pretrained teacher is an instruct model or is fine-tuned on the task."""
    model = recipes.published(teacher)
    if model is None or "steps" not in type(teacher.params).model_fields or is_instruct(model):
        return
    if recipes.of_model(replace(model, layers="")).teacher_epochs is None:
        return
    training = teacher.component.training(teacher.params)
    if training is not None and training.steps:
        return
    name = teacher.component.name
    remedy = (
        f"Leave steps= of {name} out to fine-tune it on the task's references, or choose an instruct teacher."
        if has_references(task)
        else "Choose an instruct teacher: the task has no references for fine-tuning."
    )
    raise UsageError(
        f"teacher {teacher.label} is a base model that is not fine-tuned on {task.component.name}",
        f"{remedy} {FORCE}",
    )
