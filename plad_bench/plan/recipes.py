"""Recipes: the default training settings of pretrained models, unless the user or the board overrides them.

A student from scratch has no recipe: its task declares the settings. `docs/generate.py` writes `RECIPES` to
docs/recipes.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from plad_bench.contract.models import HubModel
from plad_bench.plan.published import is_instruct, parameters
from plad_bench.plan.reference_free import has_references

if TYPE_CHECKING:
    from plad_bench.plan.chosen import Chosen

Kind = Literal["full", "pruned", "lora"]
KINDS: dict[Kind, str] = {
    "full": "full fine-tuning",
    "pruned": "full fine-tuning of a pruned model",
    "lora": "LoRA",
}
SIZES: dict[str, float] = {
    "below 20 M": 20e6,
    "20 M to 0.3 B": 0.3e9,
    "0.3 to 2 B": 2e9,
    "2 to 20 B": 20e9,
    "above 20 B": float("inf"),
}
"""Size classes with their maximum number of parameters. A pruned model has the class of the original model."""
UNKNOWN_SIZE = "2 to 20 B"
"""The size class of models of unknown size; its learning rates are safe for smaller models."""

TEACHER_LORA = 16
"""LoRA rank of the fine-tuning of teachers in the two largest classes, whose full training needs several GPUs."""

LEAST_STEPS, MOST_STEPS = 50, 500
"""Bounds of the steps that follow from epochs."""

MEASURED = "ours, measured"
UNMEASURED = "ours, unmeasured"


@dataclass(frozen=True)
class Value:
    """A number and its source."""

    number: float
    source: str


@dataclass(frozen=True)
class Recipe:
    """The settings for one kind of training and one size class."""

    kind: Kind
    size: str
    """A key of SIZES."""
    lr: Value
    epochs: Value
    """Passes of a method over the training prompts."""
    batch: Value
    sft_lr: Value
    sft_epochs: Value
    teacher_lr: Value | None
    """Learning rate of a teacher; None if teachers are not trained in this way."""
    teacher_epochs: Value | None
    """Passes of a base teacher over the training prompts; None if it is used as it is."""
    highest_lr: float
    """Higher learning rates are refused without --force. The limits are ours: far above rates that worked."""

    @property
    def steps(self) -> dict[str, float]:
        """The protocol settings that are numbers of steps, each with its number of epochs."""
        return {"steps": self.epochs.number, "sft_steps": self.sft_epochs.number}

    @property
    def settings(self) -> tuple[str, ...]:
        """The names of the protocol settings that the recipe sets."""
        return ("lr", "batch", "sft_lr", *self.steps)

    def values(self, prompts: int | None = None, batch: int | None = None) -> dict[str, Any]:
        """The protocol settings of the recipe for a number of training prompts, and a batch instead of its own."""
        own = int(self.batch.number)
        counted = {name: steps(epochs, prompts, batch or own) for name, epochs in self.steps.items()}
        return {"lr": self.lr.number, "batch": own, "sft_lr": self.sft_lr.number, **counted}


def steps(epochs: float, prompts: int | None, batch: int) -> int:
    """The optimiser steps of so many epochs, within the bounds; the most if the number of prompts is unknown."""
    if prompts is None:
        return MOST_STEPS
    return max(LEAST_STEPS, min(MOST_STEPS, math.ceil(epochs * prompts / batch)))


def in_words(epochs: float, prompts: int | None, batch: int) -> str:
    """Why `steps` has its result, such as "3 epochs of 2,915 prompts at batch 32"."""
    if prompts is None:
        return "its maximum, as the data is not here"
    made = steps(epochs, prompts, batch)
    bound = {LEAST_STEPS: "its minimum, ", MOST_STEPS: "its maximum, "}.get(made, "")
    passes = made * batch / prompts if bound else epochs
    return f"{bound}{passes:.2g} epochs of {prompts:,} prompts at batch {batch}"


def _measured(number: float) -> Value:
    return Value(number, MEASURED)


def _guess(number: float) -> Value:
    return Value(number, UNMEASURED)


_TINY, _SMALL, _MEDIUM, _LARGE, _HUGE = SIZES


def _recipe(
    kind: Kind, size: str, *, lr: Value, sft_lr: Value, highest_lr: float, teacher_lr: Value | None = None, batch: Value
) -> Recipe:
    """A recipe with the epochs that all recipes share, which are unmeasured."""
    return Recipe(
        kind=kind,
        size=size,
        lr=lr,
        epochs=_guess(3),
        batch=batch,
        sft_lr=sft_lr,
        sft_epochs=_guess(3),
        teacher_lr=teacher_lr,
        teacher_epochs=_guess(3) if teacher_lr and size != _TINY else None,
        highest_lr=highest_lr,
    )


LORA_SIZES = (_LARGE, _HUGE)
"""Size classes of teachers that are fine-tuned by LoRA unless `lora=0` says otherwise."""
# Measured on E2E: SmolLM2-135M-Instruct whole, and cut to 12 of its 30 layers, batches of 8, one seed, 26 to 40 steps.
# fmt: off
RECIPES: tuple[Recipe, ...] = (
    _recipe("full", _TINY, lr=_guess(1e-3), sft_lr=_guess(3e-3), teacher_lr=_guess(3e-3), batch=_guess(32),
            highest_lr=2e-2),
    _recipe("full", _SMALL, lr=_guess(1e-4), sft_lr=_measured(3e-4), teacher_lr=_measured(1e-4), batch=_measured(8),
            highest_lr=2e-3),
    _recipe("full", _MEDIUM, lr=_guess(2e-5), sft_lr=_guess(5e-5), teacher_lr=_guess(2e-5), batch=_guess(32),
            highest_lr=5e-4),
    _recipe("full", _LARGE, lr=_guess(1e-5), sft_lr=_guess(1e-5), teacher_lr=_guess(1e-5), batch=_guess(32),
            highest_lr=2e-4),
    _recipe("full", _HUGE, lr=_guess(5e-6), sft_lr=_guess(5e-6), teacher_lr=_guess(5e-6), batch=_guess(32),
            highest_lr=1e-4),
    _recipe("pruned", _TINY, lr=_guess(1e-3), sft_lr=_guess(3e-3), batch=_guess(32), highest_lr=2e-2),
    _recipe("pruned", _SMALL, lr=_measured(5e-4), sft_lr=_measured(1e-3), batch=_measured(8), highest_lr=2e-3),
    _recipe("pruned", _MEDIUM, lr=_guess(1e-4), sft_lr=_guess(3e-4), batch=_guess(32), highest_lr=2e-3),
    _recipe("pruned", _LARGE, lr=_guess(5e-5), sft_lr=_guess(1e-4), batch=_guess(32), highest_lr=1e-3),
    _recipe("pruned", _HUGE, lr=_guess(2e-5), sft_lr=_guess(5e-5), batch=_guess(32), highest_lr=5e-4),
    _recipe("lora", _TINY, lr=_guess(1e-3), sft_lr=_guess(3e-3), teacher_lr=_guess(3e-3), batch=_guess(32),
            highest_lr=2e-2),
    _recipe("lora", _SMALL, lr=_guess(3e-4), sft_lr=_guess(5e-4), teacher_lr=_guess(5e-4), batch=_guess(8),
            highest_lr=5e-3),
    _recipe("lora", _MEDIUM, lr=_guess(2e-4), sft_lr=_guess(2e-4), teacher_lr=_guess(2e-4), batch=_guess(32),
            highest_lr=5e-3),
    _recipe("lora", _LARGE, lr=_guess(1e-4), sft_lr=_guess(1e-4), teacher_lr=_guess(1e-4), batch=_guess(32),
            highest_lr=2e-3),
    _recipe("lora", _HUGE, lr=_guess(1e-4), sft_lr=_guess(1e-4), teacher_lr=_guess(1e-4), batch=_guess(32),
            highest_lr=2e-3),
)
# fmt: on


def published(chosen: Chosen) -> HubModel | None:
    """The pretrained model of a student or teacher; None if it is trained from scratch or has no local model."""
    make = chosen.component.model
    source = make(chosen.params) if make is not None else None
    return source if isinstance(source, HubModel) else None


def of_model(model: HubModel, *, lora: int = 0) -> Recipe:
    """The recipe for a pretrained model: full fine-tuning, pruned or LoRA."""
    kind: Kind = "lora" if lora else "pruned" if model.layers else "full"
    known = parameters(model)
    size = UNKNOWN_SIZE if known is None else next(name for name, most in SIZES.items() if known <= most)
    return next(recipe for recipe in RECIPES if (recipe.kind, recipe.size) == (kind, size))


def of_students(students: Iterable[Chosen], *, lora: int = 0) -> Recipe | None:
    """The common recipe of students, which share one protocol: the one with the lowest learning rate.

    None if none of them is pretrained.
    """
    models = [model for student in students if (model := published(student)) is not None]
    return min((of_model(model, lora=lora) for model in models), key=lambda recipe: recipe.lr.number, default=None)


def of_teacher(teacher: Chosen) -> Recipe | None:
    """The recipe for the fine-tuning of a teacher, as its parameters or its size say; None if it has none."""
    model, given = published(teacher), teacher.params
    if model is None or not {"steps", "lr", "lora"} <= type(given).model_fields.keys():
        return None
    whole, lora = replace(model, layers=""), given.lora  # type: ignore[attr-defined]
    if lora is None:
        lora = TEACHER_LORA if of_model(whole).size in LORA_SIZES else 0
    return of_model(whole, lora=lora)


def taught(
    teacher: Chosen,
    task: Chosen,
    count: Callable[[Chosen], int | None],
    *,
    validated: bool,
) -> Chosen:
    """A teacher with `steps`, `lora` and `lr` from its recipe, where its parameters leave them open.

    A pretrained base model is fine-tuned on the task's references, a large one by LoRA. An instruct model is used as it
    is, and so is one of the smallest class, which tests make, and any model if the task has no references. `count`
    returns the number of training prompts of the task, None if it is unknown. Where the recipe sets the steps, the best
    checkpoint is used, if the task can be `validated`.
    """
    from plad_bench.contract.components import Training

    recipe, model, given = of_teacher(teacher), published(teacher), teacher.params
    if recipe is None or model is None:
        return teacher
    found: dict[str, Any] = {}
    trained: int | None = given.steps  # type: ignore[attr-defined]
    if trained is None and recipe.teacher_epochs is not None and not is_instruct(model) and has_references(task):
        trained = found["steps"] = steps(recipe.teacher_epochs.number, count(task), Training.batch)
        if validated and getattr(given, "select", "last") is None:
            found["select"] = "best"
    if trained and recipe.kind == "lora" and given.lora is None:  # type: ignore[attr-defined]
        found["lora"] = TEACHER_LORA
    if trained and recipe.teacher_lr is not None and given.lr is None:  # type: ignore[attr-defined]
        found["lr"] = recipe.teacher_lr.number
    if not found:
        return teacher
    return replace(teacher, params=given.model_copy(update=found), by_recipe=tuple(found))
