"""A cell of the matrix: one row of a board for one seed, and the stages that it depends on."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from plad_bench.contract import evaluation_points, rounds
from plad_bench.contract.enums import Need
from plad_bench.contract.errors import UsageError
from plad_bench.contract.names import slug
from plad_bench.contract.objectives import PairObjective
from plad_bench.contract.protocol import Protocol
from plad_bench.plan.chosen import Chosen, choose
from plad_bench.plan.sampled import Statistic, statistics
from plad_bench.plan.stage import Stage, walk
from plad_bench.plan.stages import Plan, metrics_needs

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry
    from plad_bench.plan.trials import Tuning


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
    """Reason to skip the cell; empty if it can run."""
    outside: Chosen | None = None
    """The model of a baseline that was trained elsewhere, chosen like a student."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """Reasons why metrics are absent, by metric label."""
    tuning: Tuning | None = None
    """How the method's settings were chosen; None where they are the defaults, or the user's."""

    def but(self, *, skip: str, absent: Mapping[str, str] | None = None) -> Cell:
        """The cell with this reason to skip it and these absent metrics; itself, with its stages, if it has them."""
        absent = self.absent if absent is None else absent
        return self if (skip, absent) == (self.skip, self.absent) else replace(self, skip=skip, absent=absent)

    @functools.cached_property
    def id(self) -> str:
        """A readable path that is unique on a board."""
        models = f"{slug(self.student.label)}+{slug(self.teacher.label)}"
        return f"{slug(self.task.label)}/{models}/{slug(self.row)}/seed-{self.seed}"

    @functools.cached_property
    def checkpoint(self) -> Stage:
        """The stage that produces the evaluated model, or the responses of a teacher without a local model."""
        if self.row == "teacher":
            return self.responses if self.teacher.component.model is None else self.plan.teacher_model
        if self.outside is not None:
            return self.plan.model(self.outside.component.model(self.outside.params), None, self.row)
        if self.method is None:
            return {"student": self.plan.init, "sft-init": self.plan.sft_init}[self.row]
        return self.plan.distill(self.method, self.pairs, self.scorer, self.orders)

    @property
    def trainings(self) -> list[Stage]:
        """The stages that train it: one for each round, or the only one of a baseline."""
        return [stage for stage in self.checkpoint.walk() if rounds.kind(stage.name) == self.checkpoint.name]

    @functools.cached_property
    def scorer(self) -> Chosen | None:
        """The metric whose scores of both responses the method uses."""
        objective = self.method.component.objective if self.method else None
        named = objective.scorer(self.method.params) if self.method and isinstance(objective, PairObjective) else None
        if not named:
            return None
        (scorer,) = choose(self.registry, "metric", named)
        _check_scorer(scorer)
        return scorer

    @functools.cached_property
    def orders(self) -> Chosen | None:
        """The metric by which the pair builder orders responses or measures margins."""
        if self.pairs is None:
            return None
        if self.pairs.scorer is not None:
            _check_scorer(self.pairs.scorer)
        elif self.pairs.params.margin is not None:  # type: ignore[attr-defined]
            raise UsageError(f"{self.pairs.label}: `margin` needs a scorer", "Give a metric, such as scorer=rouge-l.")
        return self.pairs.scorer

    @functools.cached_property
    def responses(self) -> Stage:
        """The stage with the evaluated responses; its key is the cell's key."""
        return self.plan.teacher_evaluated if self.row == "teacher" else self.plan.evaluate(self.checkpoint)

    @functools.cached_property
    def samples(self) -> Stage | None:
        """The stage with several sampled responses per prompt; None without --evaluate-samples.

        None also for a teacher without a model: its responses come from an endpoint, where each has a price, or from a
        file.
        """
        teacher = self.teacher.component if self.row == "teacher" else None
        if not self.protocol.evaluate_samples or (teacher is not None and teacher.model is None):
            return None
        return self.plan.evaluate_samples(self.checkpoint, teacher.backend if teacher is not None else "")

    @functools.cached_property
    def statistics(self) -> Mapping[str, Statistic]:
        """The statistics of the samples, by label."""
        if self.skip or self.samples is None:
            return {}
        return {s.label: s for s in statistics(self._had, self.protocol.evaluate_samples)}

    @functools.cached_property
    def points(self) -> Mapping[int, Stage]:
        """The stages with the responses of the model after shares of its training, by percent; none for baselines."""
        percents = evaluation_points.parse(self.protocol.evaluate_at) if self.method is not None else ()
        return {percent: self.plan.evaluate_at(self.checkpoint, percent) for percent in percents}

    @functools.cached_property
    def at_points(self) -> Mapping[str, tuple[Chosen, int]]:
        """Label in records -> the metric and the percent of the training after which it scores the model."""
        if self.skip:
            return {}
        had = [metric for metric in self._had if not metric.component.of_samples]
        return {evaluation_points.label(m.label, percent): (m, percent) for percent in self.points for m in had}

    @functools.cached_property
    def scores(self) -> Mapping[str, Stage]:
        """The score stages by the label of what they give: metrics, also at points, and statistics of samples."""
        if self.skip:
            return {}
        plan, samples, greedy = self.plan, self.samples, (m for m in self._had if not m.component.of_samples)
        found = {m.label: plan.score(m, self.checkpoint, self.responses) for m in greedy}
        found |= {
            label: plan.score(m, self.checkpoint, self.points[percent])
            for label, (m, percent) in self.at_points.items()
        }
        if samples is not None:
            found |= {
                label: plan.score_samples(s.metric, self.checkpoint, samples) for label, s in self.statistics.items()
            }
        return found

    @property
    def _had(self) -> list[Chosen]:
        """The metrics that are not absent."""
        return [m for m in self.metrics if m.label not in self.absent]

    @functools.cached_property
    def stages(self) -> tuple[Stage, ...]:
        """All stages that its scores depend on, each once."""
        return tuple(walk(self.scores.values()))


def _check_scorer(scorer: Chosen) -> None:
    """Check that a metric can score training pairs, before any model is evaluated."""
    if needs := metrics_needs(scorer) - {Need.REFERENCES}:
        raise UsageError(
            f"{scorer.label} cannot score training pairs: it needs the {' and '.join(sorted(needs))} of an evaluation",
            "Choose a scorer that reads only text.",
        )
