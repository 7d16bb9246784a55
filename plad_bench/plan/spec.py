"""The specification of a run, with resolved names and validated parameters."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from plad_bench.contract import training_budget
from plad_bench.contract.components import Component
from plad_bench.contract.enums import BASELINES
from plad_bench.contract.errors import MissingError, NothingSelectedError, UsageError
from plad_bench.contract.names import BOARD_NAME
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import Registry
from plad_bench.plan import recipes
from plad_bench.plan.chosen import Chosen, choose
from plad_bench.plan.reference_free import has_references, reads_references

if TYPE_CHECKING:
    from plad_bench.plan.recipes import Recipe

Count: TypeAlias = Callable[[Chosen], int | None]
"""Task -> the number of its training prompts; None if it is unknown."""
DEFAULT_PAIRS = "teacher-over-student"


@dataclass(frozen=True)
class RunSpec:
    """The selected matrix: tasks x students x teachers x methods x seeds, with one protocol per task."""

    tasks: tuple[Chosen, ...]
    students: Mapping[str, tuple[Chosen, ...]]
    """By task label."""
    teachers: tuple[Chosen, ...]
    """Empty for each student's default teacher."""
    methods: tuple[Chosen, ...]
    pairs: tuple[Chosen, ...]
    metrics: Mapping[str, tuple[Chosen, ...]]
    """By task label; the first one ranks."""
    protocols: Mapping[str, Protocol]
    """By task label."""
    recipes: Mapping[str, Recipe | None]
    """By task label: the students' recipe; None if they are trained from scratch."""
    seeds: int
    training_prompts: Count
    """Counts the training prompts of a task."""
    threads: int = 1
    checkpoints: Mapping[str, Chosen] = field(default_factory=dict)
    """Models that were trained elsewhere, by the name of their row."""
    prices: Mapping[str, Any] = field(default_factory=dict)
    """The board's prices."""


def build(
    registry: Registry,
    *,
    task: str,
    methods: str,
    student: str | None = None,
    teacher: str | None = None,
    pairs: str | None = None,
    metrics: str | None = None,
    seeds: int = 1,
    threads: int = 1,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
    controls: bool = False,
    checkpoints: Sequence[str] = (),
    training_prompts: Count = lambda task: None,
    prices: Mapping[str, Any] | None = None,
) -> RunSpec:
    """Resolve selector texts to a run specification; `overrides` is by task label. Errors as `choose`.

    `controls` adds all control methods; `checkpoints` are models that were trained elsewhere, each as NAME=DIR.
    `training_prompts` is asked where the steps of a recipe follow from it; `prices` are the board's.

    None or an empty text selects the default: the task's student and metrics, the student's teacher, the default pairs.
    """
    tasks = choose(registry, "task", task)
    students = {t.label: choose(registry, "student", student or t.component.student) for t in tasks}
    given = {t.label: (overrides or {}).get(t.label, {}) for t in tasks}
    found = {t.label: recipe(t, students[t.label], given[t.label]) for t in tasks}
    protocols = {
        t.label: protocol(t.component, given[t.label], found[t.label], functools.partial(training_prompts, t))
        for t in tasks
    }
    every: Any = registry.components("method")
    added = [name for name, of in every.items() if controls and of[0].component.control]
    named = [text for text in (methods.strip(), *added) if text != "none"]
    return RunSpec(
        tasks=tasks,
        students=students,
        teachers=choose(registry, "teacher", teacher) if teacher else (),
        methods=choose(registry, "method", ",".join(named)) if named else (),
        pairs=choose(registry, "pair builder", pairs or DEFAULT_PAIRS),
        metrics={t.label: metrics_of(registry, t, metrics) for t in tasks},
        protocols=protocols,
        recipes=found,
        seeds=seeds,
        training_prompts=training_prompts,
        threads=threads,
        checkpoints=dict(_checkpoint(registry, text) for text in checkpoints),
        prices=_needed(prices or {}, protocols),
    )


def _needed(prices: Mapping[str, Any], protocols: Mapping[str, Protocol]) -> Mapping[str, Any]:
    """The board's prices, which a budget of money needs."""
    budgets = [budget for p in protocols.values() if (budget := training_budget.parse(p.budget))]
    if not prices.get("device_hour") and (money := [budget for budget in budgets if budget.kind == "money"]):
        raise UsageError(
            f"--budget {money[0]} needs the price of device time, and the board has none",
            "Write device_hour = PRICE below [prices] in its board.toml (docs/protocol.md#budgets).",
        )
    return prices


def _checkpoint(registry: Registry, text: str) -> tuple[str, Chosen]:
    """The name and the model of NAME=DIR, or of NAME=ORG/NAME for a model on the hub."""
    name, _, place = text.partition("=")
    if not BOARD_NAME.fullmatch(name) or not place:
        raise UsageError(f"--checkpoint {text!r} is not NAME=DIR", "Name the row: --checkpoint trl=runs/gkd.")
    if name in BASELINES or name in registry.components("method"):
        raise UsageError(f"--checkpoint {text!r}: {name} is the name of another row", "Choose another name.")
    parameter = "path" if Path(place).expanduser().exists() else "id"
    if parameter == "id" and place.count("/") != 1:
        raise MissingError(f"--checkpoint {name}: no directory {place}", "Give a directory in Hugging Face format.")
    quote = '"' if "'" in place else "'"
    (model,) = choose(registry, "student", f"hf[{parameter}={quote}{place}{quote}]")
    return name, model


def metrics_of(registry: Registry, task: Chosen, named: str | None) -> tuple[Chosen, ...]:
    """The given metrics, or the task's default ones without those that need references if the task has none."""
    if named:
        return choose(registry, "metric", named)
    every = choose(registry, "metric", ",".join(task.component.metrics))
    kept = tuple(metric for metric in every if has_references(task) or not reads_references(metric))
    if not kept:
        raise NothingSelectedError(
            f"{task.label} has no references, but all its default metrics need them", "Choose others with --metrics."
        )
    return kept


def recipe(task: Chosen, students: Iterable[Chosen], overrides: Mapping[str, Any]) -> Recipe | None:
    """The recipe of a task's students with overrides, which may set LoRA."""
    return recipes.of_students(students, lora=overrides.get("lora") or task.component.protocol.lora)


def protocol(
    task: Component,
    overrides: Mapping[str, Any],
    recipe: Recipe | None = None,
    count: Callable[[], int | None] = lambda: None,
) -> Protocol:
    """The task's protocol, overridden by a recipe, and by the board and the user.

    Values of None are ignored. `count` returns the number of training prompts. Errors as `Protocol`.
    """
    base: Protocol = task.protocol  # type: ignore[attr-defined]
    given = {name: value for name, value in overrides.items() if value is not None}
    if recipe is None:
        return replace(base, **given)
    counted = None if recipe.steps.keys() <= given.keys() else count()
    return replace(base, **{**recipe.values(counted, given.get("batch")), **given})


def protocol_values(value: Protocol) -> dict[str, Any]:
    """A protocol as JSON values, without unsaid settings."""
    unsaid = Protocol.unsaid()
    return {name: v for name, v in asdict(value).items() if name not in unsaid or v != unsaid[name]}
