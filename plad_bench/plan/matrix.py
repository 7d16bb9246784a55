"""The cells of a run: all selected combinations and the baselines, with stages or a reason to skip."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from plad_bench.contract.enums import BASELINES, DIVERSITY, Need
from plad_bench.contract.errors import UsageError
from plad_bench.contract.models import ScratchModel
from plad_bench.contract.objectives import PairObjective
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import Chosen, choose
from plad_bench.plan.compatibility import (
    Find,
    absence_reason,
    no_room,
    not_for_vllm,
    over_budget,
    plugins_reason,
    skip_reason,
)
from plad_bench.plan.recipes import taught
from plad_bench.plan.reference_free import has_references
from plad_bench.plan.spec import DEFAULT_PAIRS, RunSpec
from plad_bench.plan.stages import Plan, metrics_needs

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry


def cells(spec: RunSpec, registry: Registry) -> list[Cell]:
    """All cells of a run, baselines first within each seed.

    Raises:
        UsageError: if no teacher was given and a student has no default teacher.
    """
    made: dict[str, Cell] = {}
    for cell in _judged(_combinations(spec, registry), lambda cell: over_budget(cell, {})):
        skipped = cell.skip or cell.method is None
        made.setdefault(cell.id, cell if skipped else cell.but(skip=plugins_reason(cell)))
    return list(made.values())


def reconsidered(cells: Iterable[Cell], find: Find) -> list[Cell]:
    """Check cells again with the model files that are now available, and set the reasons to skip them if there are any.

    `find` returns the directory of an artifact by its key.
    """
    return [*_judged(cells, lambda cell: no_room(cell, find) or not_for_vllm(cell))]


def _judged(cells: Iterable[Cell], further: Callable[[Cell], str]) -> Iterator[Cell]:
    """Set which metrics of each cell are absent, and the reason to skip it: that of all seeds of its row.

    A cell is skipped if it cannot run, if all its metrics are absent, or for a `further` reason.
    """
    judged: dict[tuple[str, ...], tuple[str, Mapping[str, str]]] = {}
    for cell in cells:
        row = (cell.task.label, cell.teacher.label, cell.student.label, cell.row)
        if row not in judged:
            reasons = {metric.label: reason for metric in cell.metrics if (reason := absence_reason(cell, metric))}
            nothing = next(iter(reasons.values())) if len(reasons) == len(cell.metrics) else ""
            skip = skip_reason(cell) or nothing or further(cell.but(skip="", absent=reasons))
            judged[row] = skip, reasons
        skip, absent = judged[row]
        yield cell.but(skip=skip, absent=absent)


def _combinations(spec: RunSpec, registry: Registry) -> Iterator[Cell]:
    for task in spec.tasks:
        (sft,) = choose(registry, "method", "sft" if has_references(task) else "seqkd")
        metrics = spec.metrics[task.label]
        if spec.protocols[task.label].evaluate_samples and not any(metric.component.of_samples for metric in metrics):
            metrics += choose(registry, "metric", DIVERSITY)
        for student in spec.students[task.label]:
            for named in spec.teachers or _default_teacher(student, registry):
                selects = "select" in type(named.params).model_fields
                validation = validation_metric(task, registry) if selects else None
                teacher = taught(named, task, spec.training_prompts, validated=validation is not None)
                for seed in range(spec.seeds):
                    protocol = spec.protocols[task.label]
                    plan = Plan(task, teacher, student, protocol, seed, spec.threads, sft, validation, spec.prices)
                    cell = functools.partial(
                        Cell,
                        task=task,
                        teacher=teacher,
                        student=student,
                        protocol=protocol,
                        metrics=metrics,
                        plan=plan,
                        registry=registry,
                        seed=seed,
                        pairs=None,
                    )
                    for row in BASELINES:
                        if seed == 0 or row == "sft-init" or (row == "student" and _is_scratch(student)):
                            yield cell(method=None, row=row)
                    for row, model in spec.checkpoints.items() if seed == 0 else ():
                        yield cell(method=None, row=row, outside=model)
                    for method in spec.methods:
                        uses_pairs = isinstance(method.component.objective, PairObjective)
                        for builder in spec.pairs if uses_pairs else (None,):
                            shown = builder is not None and builder.label != DEFAULT_PAIRS
                            row = f"{method.label}+{builder.label}" if builder and shown else method.label
                            yield cell(method=method, row=row, pairs=builder)


def validation_metric(task: Chosen, registry: Registry) -> Chosen | None:
    """The metric by which a teacher's best checkpoint is chosen: the task's first that reads only text; None if none.

    It does not depend on --metrics, so that the teacher does not either.
    """
    every = choose(registry, "metric", ",".join(task.component.metrics))
    reads_text = (m for m in every if m.component.better is not None and not metrics_needs(m) - {Need.REFERENCES})
    return next(reads_text, None) if has_references(task) else None


def _is_scratch(student: Chosen) -> bool:
    return isinstance(student.component.model(student.params), ScratchModel)


def _default_teacher(student: Chosen, registry: Registry) -> tuple[Chosen, ...]:
    if not student.component.teacher:
        raise UsageError(f"student {student.label} has no default teacher", "Choose one with --teacher.")
    return choose(registry, "teacher", student.component.teacher)
