"""The cells of a run: every combination asked for, and the baselines, with stages or a reason to skip."""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from plad_bench.contract.enums import BASELINES, Access, Need
from plad_bench.contract.errors import UsageError
from plad_bench.contract.models import HubModel, ScratchModel
from plad_bench.contract.names import slug
from plad_bench.contract.objectives import PairObjective, TokenObjective
from plad_bench.contract.protocol import Protocol
from plad_bench.plan.compatibility import Find, no_room, not_for_vllm, tokenizers_differ
from plad_bench.plan.recipes import taught
from plad_bench.plan.reference_free import has_references, why_absent, why_unrunnable
from plad_bench.plan.spec import DEFAULT_PAIRS, Chosen, RunSpec, choose
from plad_bench.plan.stages import Plan, Stage, metrics_needs

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry

logger = logging.getLogger("plad_bench")


@dataclass(frozen=True)
class Cell:
    """One row of a board for one seed."""

    task: Chosen
    teacher: Chosen
    student: Chosen
    method: Chosen | None
    """None for a baseline."""
    row: str
    """The method's label, or the name of the baseline."""
    pairs: Chosen | None
    protocol: Protocol
    seed: int
    metrics: tuple[Chosen, ...]
    plan: Plan
    registry: Registry
    skip: str = ""
    """Why it cannot run; empty if it can."""

    @functools.cached_property
    def id(self) -> str:
        """Readable, unique on a board, and a path."""
        models = f"{slug(self.student.label)}+{slug(self.teacher.label)}"
        return f"{slug(self.task.label)}/{models}/{slug(self.row)}/seed-{self.seed}"

    @functools.cached_property
    def checkpoint(self) -> Stage:
        """The stage that makes the evaluated model. Of a teacher that is asked for text, its responses themselves."""
        if self.row == "teacher":
            return self.responses if self.teacher.component.model is None else self.plan.teacher_model
        if self.method is None:
            return {"student": self.plan.init, "sft-init": self.plan.sft_init}[self.row]
        return self.plan.distill(self.method, self.pairs, self.scorer, self.orders)

    @functools.cached_property
    def scorer(self) -> Chosen | None:
        """The metric whose scores of chosen and rejected the method reads."""
        objective = self.method.component.objective if self.method else None
        named = objective.scorer(self.method.params) if self.method and isinstance(objective, PairObjective) else None
        if not named:
            return None
        (scorer,) = choose(self.registry, "metric", named)
        _check_scorer(scorer)
        return scorer

    @functools.cached_property
    def orders(self) -> Chosen | None:
        """The metric that the pair builder orders by, or measures margins in."""
        if self.pairs is None:
            return None
        if self.pairs.scorer is not None:
            _check_scorer(self.pairs.scorer)
        elif self.pairs.params.margin is not None:  # type: ignore[attr-defined]
            raise UsageError(f"{self.pairs.label}: a margin of what?", "Name the metric that scores: scorer=rouge-l.")
        return self.pairs.scorer

    @functools.cached_property
    def responses(self) -> Stage:
        """The stage whose responses the metrics read; its key is the cell's."""
        return self.plan.teacher_evaluated if self.row == "teacher" else self.plan.evaluate(self.checkpoint)

    @functools.cached_property
    def scores(self) -> Mapping[str, Stage]:
        """Score stage of each metric that the cell can have, by the metric's label."""
        if self.skip:
            return {}
        had = (m for m in self.metrics if m.label not in self.absent)
        return {m.label: self.plan.score(m, self.checkpoint, self.responses) for m in had}

    @functools.cached_property
    def absent(self) -> Mapping[str, str]:
        """Why the cell does without a metric, by the metric's label."""
        reasons = {m.label: absence_reason(self, m) for m in self.metrics}
        return {label: reason for label, reason in reasons.items() if reason}

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All that its scores rest on, each once."""
        return tuple({stage.key: stage for score in self.scores.values() for stage in score.walk()}.values())


def cells(spec: RunSpec, registry: Registry) -> list[Cell]:
    """All cells of a run, baselines first within each seed.

    Raises:
        UsageError: if a student has no default teacher and none was named.
    """
    made: dict[str, Cell] = {}
    for cell in _combinations(spec, registry):
        made.setdefault(cell.id, _measured(cell))
    return list(made.values())


def reconsidered(cell: Cell, find: Find) -> Cell:
    """A cell that was to run, judged by the files of its models that are here by now, with a reason to skip it if any.

    `find` gives the directory of an artifact by its key.
    """
    cell = _measured(replace(cell, skip=skip_reason(cell)))
    return cell if cell.skip else replace(cell, skip=no_room(cell, find) or not_for_vllm(cell))


def _measured(cell: Cell) -> Cell:
    """The cell, skipped if nothing would be measured."""
    nothing = not cell.skip and len(cell.absent) == len(cell.metrics)
    return replace(cell, skip=next(iter(cell.absent.values()))) if nothing else cell


def _combinations(spec: RunSpec, registry: Registry) -> Iterator[Cell]:
    for task in spec.tasks:
        (sft,) = choose(registry, "method", "sft" if has_references(task) else "seqkd")
        for student in spec.students[task.label]:
            for named in spec.teachers or _default_teacher(student, registry):
                teacher = taught(named, task)
                for seed in range(spec.seeds):
                    protocol = spec.protocols[task.label]
                    plan = Plan(task, teacher, student, protocol, seed, spec.threads, sft)
                    cell = functools.partial(
                        Cell,
                        task=task,
                        teacher=teacher,
                        student=student,
                        protocol=protocol,
                        metrics=spec.metrics[task.label],
                        plan=plan,
                        registry=registry,
                        seed=seed,
                        pairs=None,
                    )
                    for row in BASELINES:
                        if seed == 0 or row == "sft-init" or (row == "student" and _is_scratch(student)):
                            reference = cell(method=None, row=row)
                            yield replace(reference, skip=skip_reason(reference))
                    for method in spec.methods:
                        uses_pairs = isinstance(method.component.objective, PairObjective)
                        for builder in spec.pairs if uses_pairs else (None,):
                            shown = builder is not None and builder.label != DEFAULT_PAIRS
                            row = f"{method.label}+{builder.label}" if builder and shown else method.label
                            planned = cell(method=method, row=row, pairs=builder)
                            reason = skip_reason(planned) or _plugins_reason(planned)
                            yield replace(planned, skip=reason)


def skip_reason(cell: Cell) -> str:
    """Why this teacher and this student cannot serve this method; empty if they can. Needs no model to be loaded."""
    reason, method = why_unrunnable(cell), cell.method
    if reason or method is None:
        return reason
    component, teacher = method.component, cell.teacher.component
    if refused := _refused(component.name, cell.plan.access(method), cell.teacher):
        return refused + _way_out(cell)
    if isinstance(component.objective, TokenObjective) and component.objective.teacher_logits:
        if teacher.model is None:
            return _refused(component.name, Access.LOGITS, cell.teacher)
        student = cell.student.component.model(cell.student.params)
        reason = _vocabulary_difference(student, teacher.model(cell.teacher.params))
        if component.shared_vocabulary and reason:
            return f"{component.name} compares logits token by token, but {reason}"
    return _pairs_reason(cell)


def _pairs_reason(cell: Cell) -> str:
    """Why the pair builder cannot make these pairs; empty if it can, or if none is asked."""
    if cell.pairs is None:
        return ""
    if (metric := cell.orders) is not None and metric.component.better is None:
        return f"{metric.label} has no direction, so {cell.pairs.label} cannot order by it"
    needed = cell.pairs.component.samples(cell.pairs.params)
    there = cell.protocol.samples if cell.protocol.sample_temperature else 1
    if needed > there:
        return f"{cell.pairs.label} needs {needed} samples of each prompt, and there will be {there} (--samples)"
    return ""


def absence_reason(cell: Cell, metric: Chosen) -> str:
    """Why a metric cannot be had for this cell; empty if it can. Needs no model to be loaded."""
    needs, name, teacher = metrics_needs(metric), metric.component.name, cell.teacher
    is_teacher = cell.row == "teacher" and cell.method is None
    runs_teacher = Need.TEACHER_LOGITS in needs or (Need.CHECKPOINT in needs and is_teacher)
    if runs_teacher and (refused := _refused(name, Access.LOGITS, teacher)):
        return refused
    if reason := why_absent(cell, metric):
        return reason
    if Need.TEACHER_LOGITS in needs and not is_teacher:
        mine, other = (c.component.model(c.params) for c in (cell.student, teacher))
        if reason := _vocabulary_difference(mine, other):
            return f"{name} compares logits token by token, but {reason}"
    return ""


def _refused(name: str, access: Access, teacher: Chosen) -> str:
    """What a teacher does not give; empty if it gives that."""
    best = max((*teacher.component.provides, Access.NONE), key=lambda given: given.tier)
    if access.tier <= best.tier:
        return ""
    return f"{name} needs the teacher's {access.value}; {teacher.label} provides {best.value}"


def _way_out(cell: Cell) -> str:
    """How a teacher that gives its likeliest tokens can serve the method; empty if it cannot."""
    kept = replace(cell.plan, protocol=replace(cell.protocol, teacher_logprobs="top-64"))
    can = cell.method is not None and not _refused("", kept.access(cell.method), cell.teacher)
    return " (--teacher-logprobs top-64 works with top-k log-probabilities)" if can else ""


def _plugins_reason(cell: Cell) -> str:
    """The first reason that a plugin gives; one that fails gives none and is named in the log."""
    for impl in reversed(cell.registry.manager.hook.plad_bench_cell_skip.get_hookimpls()):
        try:
            reason = impl.function(cell=cell)
        except Exception:
            logger.exception("plugin %s failed in plad_bench_cell_skip", impl.plugin_name)
            continue
        if reason is not None:
            return str(reason)
    return ""


def _check_scorer(scorer: Chosen) -> None:
    """See that a metric can score training pairs, where no model has been evaluated yet."""
    if needs := metrics_needs(scorer) - {Need.REFERENCES}:
        raise UsageError(
            f"{scorer.label} cannot score training pairs: it needs the {' and '.join(sorted(needs))} of an evaluation",
            "Name a scorer that reads text alone.",
        )


def _vocabulary_difference(student: Any, teacher: Any) -> str:
    if isinstance(student, ScratchModel) and isinstance(teacher, ScratchModel):
        if student.vocabulary != teacher.vocabulary:
            return f"the student's tokenizer has {student.vocabulary} tokens and the teacher's {teacher.vocabulary}"
        return ""
    both_published = isinstance(student, HubModel) and isinstance(teacher, HubModel)
    either_scratch = isinstance(student, ScratchModel) or isinstance(teacher, ScratchModel)
    if either_scratch or (both_published and tokenizers_differ(student, teacher)):
        return "student and teacher have different tokenizers"
    return ""


def _is_scratch(student: Chosen) -> bool:
    return isinstance(student.component.model(student.params), ScratchModel)


def _default_teacher(student: Chosen, registry: Registry) -> tuple[Chosen, ...]:
    if not student.component.teacher:
        raise UsageError(f"student {student.label} has no default teacher", "Name one with --teacher.")
    return choose(registry, "teacher", student.component.teacher)
