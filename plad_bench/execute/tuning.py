"""Equal tuning: every method gets the same number of trials, and its best settings alone meet the test split.

The trials of all methods go on in rounds, one trial of each method at a time. What was tried is never stored as such:
the sampler is seeded and told the scores of the trials in their order, so that it asks for the same ones again, whose
records are there already. That is how the same command goes on with a tuning that was interrupted.
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
"""Within a board's directory: its trials, whose records lie below cells/ there."""
STARTUP = 5
"""Trials before the sampler, a tree-structured Parzen estimator, looks at scores, however many there will be: more
trials go on where fewer ended."""


class Study:
    """The trials of one method on one task, teacher and student."""

    def __init__(self, cells: Sequence[Cell], metric: Chosen) -> None:
        """`cells` has one of each seed."""
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
        """Optuna's trial that was asked for and not told of."""

    def ask(self) -> Values:
        """The values of the next trial, to three digits; the default ones at first."""
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

    def tell(self, trial: Trial) -> None:
        """What came of the trial that was asked for."""
        from optuna.trial import TrialState

        if trial.score is None:
            self._study.tell(self._asked, state=TrialState.FAIL)
        else:
            self._study.tell(self._asked, trial.score)
        self.trials.append(trial)
        self._asked = None

    @property
    def tuning(self) -> Tuning:
        """What was tried so far."""
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
        """What there is to tune.

        Args:
            cells: of the run; baselines, and cells that cannot run, are not tuned.
            board: its directory.
            primary: the metric that ranks; empty for the first of a cell's metrics that has a direction.
            registry: of all plugins.
            again: whether trials that failed are tried again.

        Raises:
            MissingError: if Optuna is not installed.
            UsageError: if a method has nothing to tune, or no metric ranks.
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
                    "--tune chooses settings on the validation split, and --split evaluates the chosen ones there, too",
                    "Leave --split out: the test split must be new to them.",
                )
            if reason := cell.absent.get(_ranking(cell, primary, registry).label):
                self._skipped.append(replace(cell, skip=f"it cannot be tuned: {reason}"))
            else:
                by_row.setdefault((cell.task.label, cell.teacher.label, cell.student.label, cell.row), []).append(cell)
        self.studies = [Study(of, _ranking(of[0], primary, registry)) for of in by_row.values()]

    def run(self, execute: Callable[[int, Sequence[Cell]], None] | None = None) -> bool:
        """Give every method its trials; whether all of them are done.

        `execute` gets the number of a round and those of its cells that are to run, and writes their records below
        `board`. The tuning stops where it leaves some undone, or where there is something to run and no `execute`, and
        goes on when called again.
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
        """The record of a trial, be it of a failure; None if there is none, or if it is to be tried again."""
        cells = self.board / "cells"
        if (record := recording.recorded(cells, cell)) is not None:
            return record
        return recording.failure(cells, cell) if not self.again or cell.id in self._executed else None

    @property
    def lost(self) -> bool:
        """Whether all trials of a method failed."""
        return any(study.trials and study.tuning.best is None for study in self.studies)

    def searched(self) -> Iterable[str]:
        """What is searched, to read."""
        for study in self.studies:
            ranges = ", ".join(f"{d.name} {d.low:g} to {d.high:g}{' (log)' if d.log else ''}" for d in study.space)
            done, wanted = len(study.trials), study.cells[0].protocol.tune
            yield f"Tuning of {study.cells[0].row}: {done} of {wanted} trials done; searched: {ranges}"

    def chosen(self) -> Iterable[str]:
        """What was chosen, to read."""
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
        raise UsageError("none of the metrics ranks, so that no trial is better", "Name one that does with --metrics.")
    return directed[0]
