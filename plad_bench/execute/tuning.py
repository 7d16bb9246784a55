"""Equal tuning: every method gets as many trials, and only its best settings are evaluated on the test split.

Trials proceed in rounds, with one trial of each method per round. Trials are not stored separately: the sampler is
seeded and receives the scores of earlier trials in order, so it proposes the same trials again, whose records exist
already. In this way the same command continues an interrupted tuning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract.errors import UsageError
from plad_bench.execute import recording
from plad_bench.plan import backends, search
from plad_bench.plan.chosen import choose
from plad_bench.plan.trials import Trial, Tuning, Values

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen
    from plad_bench.records.schema import Record

FOLDER = "tuning"
"""Directory of trials within a board's directory; their records are below cells/ there."""
STARTUP = 5
"""Random trials before the sampler, a tree-structured Parzen estimator, uses scores. Independent of the number of
trials, so more trials can follow fewer."""


class Study:
    """The trials of one method on one task, teacher and student."""

    def __init__(self, cells: Sequence[Cell], metric: Chosen) -> None:
        """`cells` has one cell per seed."""
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.cells, self.metric, self.trials = tuple(cells), metric, list[Trial]()
        self.space = search.space(cells[0])
        self._study = optuna.create_study(
            direction="maximize" if metric.component.better == "higher" else "minimize",
            sampler=optuna.samplers.TPESampler(seed=0, n_startup_trials=STARTUP),
        )
        self._study.enqueue_trial(dict(search.defaults(self.space)))
        self._asked: Any = None
        """Optuna's trial that was proposed and has no score yet."""

    def ask(self) -> Values:
        """The values of the next trial, rounded to three digits; the first trial has the defaults."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self._asked is None:
            self._asked = self._study.ask(
                {
                    d.name: IntDistribution(int(d.low), int(d.high), log=d.log)
                    if d.whole
                    else FloatDistribution(d.low, d.high, log=d.log)
                    for d in self.space
                }
            )
        values = self._asked.params if self.trials else search.defaults(self.space)
        return {name: value if isinstance(value, int) else float(f"{value:.3g}") for name, value in values.items()}

    def expected(self) -> list[Cell]:
        """Cells that take about as long as the trials to come, which depend on scores that do not exist yet.

        The first has the default values; the values of the others are spread over the space.
        """
        wanted = self.cells[0].protocol.tune
        return [
            search.trial(self.cells[0], self.space, search.spread(self.space, number, wanted), self.metric)
            for number in range(len(self.trials), wanted)
        ]

    def tell(self, trial: Trial) -> None:
        """Record the outcome of the proposed trial."""
        from optuna.trial import TrialState

        if trial.score is None:
            self._study.tell(self._asked, state=TrialState.FAIL)
        else:
            self._study.tell(self._asked, trial.score)
        self.trials.append(trial)
        self._asked = None

    @property
    def tuning(self) -> Tuning:
        """The trials so far."""
        return Tuning(self.metric.label, self.metric.component.better, self.space, tuple(self.trials))

    def winners(self) -> list[Cell]:
        """The cells with the best settings; skipped, with the reason of the first trial, if all trials failed."""
        tuning = self.tuning
        if tuning.best is None:
            reason = f"all of its {len(self.trials)} trials failed: {self.trials[0].reason}"
            return [replace(cell, skip=reason) for cell in self.cells]
        method = search.tuned(self.cells[0], self.space, self.trials[tuning.best].values)
        return [replace(cell, method=method, tuning=tuning) for cell in self.cells]


class Tuner:
    """The tuning of the methods of a run."""

    def __init__(self, cells: Iterable[Cell], board: Path, primary: str, registry: Registry, *, again: bool) -> None:
        """Collect the methods to tune.

        Args:
            cells: of the run; baselines, and cells that cannot run, are not tuned.
            board: its directory.
            primary: the metric that ranks; if empty, the first metric of a cell with a direction.
            registry: of all plugins.
            again: whether failed trials are repeated.

        Raises:
            MissingError: if Optuna is not installed.
            UsageError: if a method has nothing to tune, or no metric has a direction.
        """
        backends.require_optuna()
        self.board, self.again = board / FOLDER, again
        self._executed: set[str] = set()
        self._skipped: list[Cell] = []
        by_row: dict[tuple[str, ...], list[Cell]] = {}
        for cell in cells:
            if cell.method is None or cell.skip or not cell.protocol.tune:
                continue
            if cell.protocol.split != "test":
                raise UsageError(
                    "--tune chooses settings on the validation split, so --split validation would also evaluate on it",
                    "Leave --split out, so that the test split is new to the chosen settings.",
                )
            if reason := cell.absent.get(_ranking(cell, primary, registry).label):
                self._skipped.append(replace(cell, skip=f"it cannot be tuned: {reason}"))
            else:
                by_row.setdefault((cell.task.label, cell.teacher.label, cell.student.label, cell.row), []).append(cell)
        self.studies = [Study(of, _ranking(of[0], primary, registry)) for of in by_row.values()]

    def run(self, execute: Callable[[int, Sequence[Cell]], None] | None = None) -> bool:
        """Run the trials of every method; whether all of them are done.

        `execute` gets the number of a round and its cells to run, and writes their records below `board`. The tuning
        stops if some remain undone, or if there are cells to run and no `execute`; it continues when called again.
        """
        while waiting := [study for study in self.studies if len(study.trials) < study.cells[0].protocol.tune]:
            number = min(len(study.trials) for study in waiting)
            asked = [(study, study.ask()) for study in waiting if len(study.trials) == number]
            cells = [search.trial(study.cells[0], study.space, values, study.metric) for study, values in asked]
            if todo := [cell for cell in {cell.id: cell for cell in cells}.values() if self._result(cell) is None]:
                if execute is None:
                    return False
                execute(number, todo)
                self._executed |= {cell.id for cell in todo}
            for (study, values), cell in zip(asked, cells, strict=True):
                if (record := self._result(cell)) is None:
                    return False
                study.tell(_trial(values, record, study.metric))
        return True

    def _result(self, cell: Cell) -> Record | None:
        """The record of a trial, also of a failed one; None if there is none, or if it is to be repeated."""
        cells = self.board / "cells"
        if (record := recording.recorded(cells, cell)) is not None:
            return record
        return recording.failure(cells, cell) if not self.again or cell.id in self._executed else None

    @property
    def pending(self) -> int:
        """How many trials are still to do."""
        return sum(max(study.cells[0].protocol.tune - len(study.trials), 0) for study in self.studies)

    def expected(self) -> list[Cell]:
        """Cells that take about as long as the trials that are still to do."""
        return [cell for study in self.studies for cell in study.expected()]

    @property
    def lost(self) -> bool:
        """Whether all trials of a method failed."""
        return any(study.trials and study.tuning.best is None for study in self.studies)

    def searched(self) -> Iterable[str]:
        """The search space and progress as text."""
        for study in self.studies:
            ranges = ", ".join(f"{d.name} {d.low:g} to {d.high:g}{' (log)' if d.log else ''}" for d in study.space)
            done, wanted = len(study.trials), study.cells[0].protocol.tune
            yield f"Tuning of {study.cells[0].row}: {done} of {wanted} trials done; searched: {ranges}"

    def chosen(self) -> Iterable[str]:
        """The chosen settings as text."""
        for study in self.studies:
            if (best := study.tuning.best) is not None:
                trial = study.trials[best]
                values = ", ".join(f"{name} {value:g}" for name, value in trial.values.items())
                score = f"{study.metric.label} {trial.score:.4g} on the validation split"
                yield f"Chosen for {study.cells[0].row}: trial {best + 1}, {values}; {score}"

    def keep(self, cells: Iterable[Cell]) -> None:
        """Tune only the methods of these cells that can run."""
        runnable = {cell.id for cell in cells if not cell.skip}
        self.studies = [study for study in self.studies if study.cells[0].id in runnable]

    def winners(self, cells: Iterable[Cell]) -> list[Cell]:
        """The cells of a run with the best settings in place of the default ones."""
        tuned = {cell.id: cell for study in self.studies for cell in study.winners()}
        tuned |= {cell.id: cell for cell in self._skipped}
        return [tuned.get(cell.id, cell) for cell in cells]


def _trial(values: Values, record: Record, metric: Chosen) -> Trial:
    found = record.metrics.get(metric.label)
    if found is None or found.value is None:
        return Trial(values, None, record.reason or f"no example has a value of {metric.label}", record.cost)
    return Trial(values, found.value, cost=record.cost)


def _ranking(cell: Cell, primary: str, registry: Registry) -> Chosen:
    """The metric that ranks."""
    if primary:
        return choose(registry, "metric", primary)[0]
    directed = [metric for metric in cell.metrics if metric.component.better is not None]
    if not directed:
        raise UsageError("no metric has a direction, so no trial can be the best", "Choose another with --metrics.")
    return directed[0]
