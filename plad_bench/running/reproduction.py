"""The command that reproduces the cells of a run without its board, --config file or environment variables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from plad_bench.contract import training_budget
from plad_bench.contract.errors import NothingSelectedError
from plad_bench.contract.protocol import settings
from plad_bench.plan import defaults, spec

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry
    from plad_bench.plan.chosen import Chosen
    from plad_bench.plan.spec import RunSpec

_OF_THE_DEVICE = {"precision"}
"""Settings whose default depends on the device; the command always contains them."""


def arguments(
    registry: Registry, options: Mapping[str, Any], run: RunSpec, task: Chosen, *, board: str, metrics: str | None
) -> list[str]:
    """The arguments of `plad-bench` for the cells of one task, with every setting that differs from its default.

    Execution options are omitted.

    Args:
        registry: the registry, for its plugin files.
        options: the options of `run`, from the command line, environment variables and files.
        run: the resolved specification.
        task: the task.
        board: the name of the board.
        metrics: metric selectors from the options or the board's file, if any.
    """
    protocol, recipe = run.protocols[task.label], run.recipes[task.label]
    # The command always contains the settings of a recipe, because recipes may change.
    usual = {name: getattr(task.component.protocol, name) for name in settings()}
    usual |= dict.fromkeys(recipe.settings if recipe else ())
    students = run.students[task.label] if options["student"] else ()
    values = {
        "task": (task.selector, defaults.task(students)),
        "methods": (options["methods"], defaults.DEMO_METHODS),
        "controls": (options["controls"], False),
        "student": (options["student"], None),
        "teacher": (options["teacher"], None),
        "pairs": (options["pairs"], None),
        "metrics": (None if _are_the_tasks(run.metrics[task.label], registry, task) else metrics, None),
        "seeds": (run.seeds, 1),
        "board": (board, defaults.board([task], run.students[task.label], trial=bool(protocol.limit))),
        "threads": (options["threads"], 1),
        "ranks": (options["ranks"], 1),
        "shard": (options["shard"], False),
        "teacher_gpus": (options["teacher_gpus"], 1),
        "force": (options["force"], False),
        **{name: (getattr(protocol, name), usual[name]) for name in settings()},
    }
    if training_budget.replaces_steps(protocol.budget):
        del values["steps"]
    given = [part for file in registry.files for part in ("-p", str(file))]
    given.append("run")
    given += [part for text in options["checkpoints"] for part in ("--checkpoint", text)]
    for name, (value, default) in values.items():
        if value != default or name in _OF_THE_DEVICE:
            given += [f"--{name.replace('_', '-')}", *([] if value is True else [str(value)])]
    return given


def _are_the_tasks(chosen: Sequence[Chosen], registry: Registry, task: Chosen) -> bool:
    """Whether the metrics are the task's default ones."""
    try:
        own = spec.metrics_of(registry, task, None)
    except NothingSelectedError:
        return False
    return [metric.label for metric in chosen] == [metric.label for metric in own]
