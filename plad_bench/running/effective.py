"""The effective settings of a run, each with its origin: the user, the board, a recipe, the device or the task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plad_bench.contract.training_budget import replaces_steps

if TYPE_CHECKING:
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen
    from plad_bench.plan.recipes import Recipe
    from plad_bench.plan.spec import RunSpec

OPTION, BOARD, RECIPE, DEVICE, TASK = "option", "board", "recipe", "device", "task"
"""Origins of a setting. "option" includes environment variables and --config files."""
SELECTOR, TEACHER = "selector", "teacher"
"""Further origins of a teacher's settings: the parameters in its selector, or their defaults."""


@dataclass(frozen=True)
class Setting:
    """A value and its origin."""

    value: Any
    origin: str


@dataclass(frozen=True)
class TeacherSettings:
    """How a teacher is fine-tuned on the task's references before use; no settings if it is used as it is."""

    teacher: str
    settings: Mapping[str, Setting]
    epochs: str = ""
    """Why a recipe's steps are what they are, in words."""


@dataclass(frozen=True)
class TaskSettings:
    """The settings that all students of a task share, and the settings of its teachers."""

    task: str
    students: tuple[str, ...]
    recipe: str
    """Kind and size class of the students' recipe; empty if they are trained from scratch."""
    settings: Mapping[str, Setting]
    teachers: tuple[TeacherSettings, ...]
    epochs: Mapping[str, str]
    """By setting: why a recipe's steps are what they are, in words."""


def settings(
    cells: Sequence[Cell],
    run: RunSpec,
    *,
    boards: Mapping[str, Mapping[str, Any]],
    options: Mapping[str, Any],
    gpu: bool,
) -> tuple[TaskSettings, ...]:
    """The effective settings of each task.

    Args:
        cells: the cells of the run, whose teachers already have the settings of their recipes.
        run: the run's specification.
        boards: by task label, the settings that the board's file fixes.
        options: the settings given by the user; None if not given.
        gpu: whether the run has a GPU.
    """
    return tuple(_of_task(task, cells, run, boards[task.label], options, gpu=gpu) for task in run.tasks)


def _of_task(
    task: Chosen,
    cells: Sequence[Cell],
    run: RunSpec,
    board: Mapping[str, Any],
    options: Mapping[str, Any],
    *,
    gpu: bool,
) -> TaskSettings:
    from plad_bench.plan.recipes import in_words

    protocol, recipe = run.protocols[task.label], run.recipes[task.label]
    names = ("steps", "budget", "lr", "batch", "precision", "sft_steps", "sft_lr", "lora", "optimizer")
    usual = type(protocol).unsaid()
    shown = [name for name in names if name not in usual or getattr(protocol, name) != usual[name]]
    if replaces_steps(protocol.budget):
        shown.remove("steps")
    teachers = {cell.teacher.label: cell.teacher for cell in cells if cell.task.label == task.label}
    found = {name: Setting(getattr(protocol, name), _origin(name, board, options, recipe, gpu=gpu)) for name in shown}
    by_recipe = {
        name: n
        for name, n in (recipe.steps if recipe else {}).items()
        if name in found and found[name].origin == RECIPE
    }
    return TaskSettings(
        task=task.label,
        students=tuple(student.label for student in run.students[task.label]),
        recipe=_title(recipe),
        settings=found,
        teachers=tuple(
            _teachers(teacher, task, run) for teacher in teachers.values() if teacher.component.model is not None
        ),
        epochs={
            name: in_words(epochs, run.training_prompts(task), protocol.batch) for name, epochs in by_recipe.items()
        },
    )


def _title(recipe: Recipe | None) -> str:
    from plad_bench.plan.recipes import KINDS

    return f"{KINDS[recipe.kind]}, {recipe.size} parameters" if recipe else ""


def _origin(
    name: str, board: Mapping[str, Any], options: Mapping[str, Any], recipe: Recipe | None, *, gpu: bool
) -> str:
    if options.get(name) is not None:
        return OPTION
    if name in board:
        return BOARD
    if recipe is not None and name in recipe.settings:
        return RECIPE
    return DEVICE if name == "precision" and gpu else TASK


def _teachers(teacher: Chosen, task: Chosen, run: RunSpec) -> TeacherSettings:
    from plad_bench.plan.recipes import in_words, of_teacher

    training = teacher.component.training(teacher.params)
    if training is None or not training.steps:
        return TeacherSettings(teacher.label, {})
    fields, params = type(teacher.params).model_fields, teacher.params

    def origin(name: str) -> str:
        if name in teacher.by_recipe:
            return RECIPE
        return TEACHER if name not in fields or getattr(params, name) == fields[name].default else SELECTOR

    shown = {"lora": training.lora, "select": training.select == "best"}
    names = ("steps", "lr", *(name for name, there in shown.items() if there))
    recipe = of_teacher(teacher) if "steps" in teacher.by_recipe else None
    epochs = recipe.teacher_epochs if recipe else None
    return TeacherSettings(
        teacher.label,
        {name: Setting(getattr(training, name), origin(name)) for name in names},
        in_words(epochs.number, run.training_prompts(task), training.batch) if epochs else "",
    )


def lines(found: Sequence[TaskSettings]) -> Iterator[str]:
    """The settings as text: lines for each task, its SFT initialisation and each of its teachers."""
    for of in found:
        said = {name: _said(setting, of.epochs.get(name, "")) for name, setting in of.settings.items()}
        adapters = f", LoRA rank {said['lora']}" if "lora" in said else ""
        length = ", ".join(f"{name} {said[name]}" for name in ("steps", "budget") if name in said)
        recipe = f"; recipe: {of.recipe}" if of.recipe else ""
        yield f"Settings for task {of.task}, student {', '.join(of.students)}{recipe} (in brackets: who set them):"
        yield (
            f"  methods: {length}, learning rate {said['lr']}, batch {said['batch']}, "
            f"precision {said['precision']}{adapters}"
        )
        if of.settings["sft_steps"].value:
            yield f"  SFT initialisation: steps {said['sft_steps']}, learning rate {said['sft_lr']}"
        else:
            yield f"  SFT initialisation: steps {said['sft_steps']}: methods begin from the untouched student"
        for teacher in of.teachers:
            tuned = [
                f"{_TEACHERS[name]} {_said(setting, teacher.epochs if name == 'steps' else '')}"
                for name, setting in teacher.settings.items()
            ]
            what = f"fine-tuned on the references first, {', '.join(tuned)}" if tuned else "used as it is"
            yield f"  teacher {teacher.teacher}: {what}"


_TEACHERS = {"steps": "steps", "lr": "learning rate", "lora": "LoRA rank", "select": "checkpoint"}


def _said(setting: Setting, why: str) -> str:
    """A value, who set it, and why."""
    value = f"{setting.value:g}" if isinstance(setting.value, float) else str(setting.value)
    return f"{value} ({setting.origin}{f': {why}' if why else ''})"
