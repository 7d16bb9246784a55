"""The specification of a run, with resolved names and validated parameters."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from plad_bench.contract.components import Component
from plad_bench.contract.errors import NothingSelectedError
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import Registry
from plad_bench.plan import recipes
from plad_bench.plan.chosen import Chosen, choose
from plad_bench.plan.reference_free import has_references, reads_references

if TYPE_CHECKING:
    from plad_bench.plan.recipes import Recipe

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
    threads: int = 1


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
) -> RunSpec:
    """Resolve selector texts to a run specification; `overrides` is by task label. Errors as `choose`.

    `controls` adds all control methods.

    None or an empty text selects the default: the task's student and metrics, the student's teacher, the default pairs.
    """
    tasks = choose(registry, "task", task)
    students = {t.label: choose(registry, "student", student or t.component.student) for t in tasks}
    given = {t.label: (overrides or {}).get(t.label, {}) for t in tasks}
    found = {t.label: recipe(t, students[t.label], given[t.label]) for t in tasks}
    protocols = {t.label: protocol(t.component, given[t.label], found[t.label]) for t in tasks}
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
        threads=threads,
    )


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


def protocol(task: Component, overrides: Mapping[str, Any], recipe: Recipe | None = None) -> Protocol:
    """The task's protocol, overridden by a recipe, and by the board and the user.

    Values of None are ignored. Errors as `Protocol`.
    """
    base: Protocol = task.protocol  # type: ignore[attr-defined]
    given = {name: value for name, value in overrides.items() if value is not None}
    return replace(base, **{**(recipe.values if recipe else {}), **given})


def protocol_values(value: Protocol) -> dict[str, Any]:
    """A protocol as JSON values, without unsaid settings."""
    unsaid = Protocol.unsaid()
    return {name: v for name, v in asdict(value).items() if name not in unsaid or v != unsaid[name]}
