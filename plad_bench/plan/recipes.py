"""Recipes: the default training settings of pretrained models, unless the user or the board overrides them.

A student from scratch has no recipe: its task declares the settings. `docs/generate.py` writes `RECIPES` to
docs/recipes.md.
"""

from __future__ import annotations

from collections.abc import Iterable
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
    steps: Value
    batch: Value
    sft_lr: Value
    sft_steps: Value
    teacher_lr: Value | None
    """Learning rate of a teacher; None if teachers are not trained in this way."""
    teacher_steps: Value | None
    highest_lr: float
    """Higher learning rates are refused without --force. The limits are ours: far above rates that worked."""

    @property
    def settings(self) -> dict[str, Value]:
        """The protocol settings of the recipe, with sources."""
        return {name: getattr(self, name) for name in ("lr", "steps", "batch", "sft_lr", "sft_steps")}

    @property
    def values(self) -> dict[str, Any]:
        """The protocol settings of the recipe, as values."""
        whole = {"steps", "batch", "sft_steps"}
        return {name: int(v.number) if name in whole else v.number for name, v in self.settings.items()}


def _measured(number: float) -> Value:
    return Value(number, MEASURED)


def _guess(number: float) -> Value:
    return Value(number, UNMEASURED)


_TINY, _SMALL, _MEDIUM, _LARGE, _HUGE = SIZES


def _recipe(
    kind: Kind, size: str, *, lr: Value, sft_lr: Value, highest_lr: float, teacher_lr: Value | None = None, batch: Value
) -> Recipe:
    """A recipe with the step counts that all recipes share, which are unmeasured."""
    teacher_steps = _guess(500) if teacher_lr and size != _TINY else None
    return Recipe(
        kind=kind,
        size=size,
        lr=lr,
        steps=_guess(500),
        batch=batch,
        sft_lr=sft_lr,
        sft_steps=_guess(500),
        teacher_lr=teacher_lr,
        teacher_steps=teacher_steps,
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


def taught(teacher: Chosen, task: Chosen) -> Chosen:
    """A teacher with `steps`, `lora` and `lr` from its recipe, where its parameters leave them open.

    A pretrained base model is fine-tuned on the task's references, a large one by LoRA. An instruct model is used as it
    is, and so is one of the smallest class, which tests make, and any model if the task has no references.
    """
    model, given = published(teacher), teacher.params
    if model is None or not {"steps", "lr", "lora"} <= type(given).model_fields.keys():
        return teacher
    found: dict[str, Any] = {}
    steps: int | None = given.steps  # type: ignore[attr-defined]
    lora: int | None = given.lora  # type: ignore[attr-defined]
    whole = replace(model, layers="")
    if lora is None:
        lora = TEACHER_LORA if of_model(whole).size in LORA_SIZES else 0
    recipe = of_model(whole, lora=lora)
    if steps is None and recipe.teacher_steps is not None and not is_instruct(model) and has_references(task):
        steps = found["steps"] = int(recipe.teacher_steps.number)
    if steps and lora and given.lora is None:  # type: ignore[attr-defined]
        found["lora"] = lora
    if steps and recipe.teacher_lr is not None and given.lr is None:  # type: ignore[attr-defined]
        found["lr"] = recipe.teacher_lr.number
    if not found:
        return teacher
    return replace(teacher, params=given.model_copy(update=found), by_recipe=tuple(found))
