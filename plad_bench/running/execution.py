"""From a run that is ready to start to its records and pages, trials of tuned methods first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract.errors import NothingSelectedError
from plad_bench.execute.runs import CellWatcher, Run
from plad_bench.running import pages

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry
    from plad_bench.plan.cell import Cell
    from plad_bench.running.setup import Planned

_LEAST_MONEY = 1e-9
"""Remaining budget if it is used up, because 0 would mean no limit."""


class Listener:
    """What an observer of a run may override; by default nothing is said."""

    def begins(self, planned: Planned) -> None:
        """Nothing has run yet, and nothing is in the way."""

    def says(self, line: str) -> None:
        """A line about tuning."""

    def watcher(self, cells: int) -> CellWatcher:
        """What watches the execution of so many cells."""
        return CellWatcher()


@dataclass
class Executor:
    """Executes cells with the options of a run, within one budget."""

    planned: Planned
    registry: Registry
    options: Mapping[str, Any]
    gpus: tuple[int, ...]
    arguments: Sequence[str]
    """Those of the command line that resumes the run."""
    listener: Listener = field(default_factory=Listener)
    spent: float = 0.0

    def run_on(self, board: Path) -> Run:
        """A run whose records lie below a directory."""
        return Run(
            store=self.planned.store,
            board=board,
            accounts=self.planned.directory,
            arguments=self.arguments,
            commands=self.planned.commands,
            plugins=self.registry.files,
            registry=self.registry,
        )

    def __call__(self, run: Run, cells: Sequence[Cell], todo: Sequence[Cell], *, rerun: str = "missing") -> None:
        """Execute the cells to do, and count all of them in `run.counts`."""
        from plad_bench.contract.launching import LaunchOptions
        from plad_bench.execute.engine import Options
        from plad_bench.plan.chosen import choose

        of, store = self.options, self.planned.store
        (launcher,) = choose(self.registry, "launcher", of["launcher"])
        launch = LaunchOptions(workers=of["workers"], threads=of["threads"], gpus=self.gpus, store=store.root)
        limit = max(of["max_cost"] - self.spent, _LEAST_MONEY) if of["max_cost"] else 0.0
        if todo or any(not run.has_skip(cell) for cell in cells if cell.skip):
            store.prepare()
        run.counts = run.execute(
            cells,
            todo,
            open_session=lambda: launcher.component.open(launcher.params, launch),
            threads=of["threads"],
            ranks=of["ranks"],
            shard=of["shard"],
            teacher_gpus=of["teacher_gpus"],
            options=Options(of["retries"], of["max_failures"], of["timeout"], limit),
            watcher=self.listener.watcher(len(todo)) if todo else CellWatcher(),
            afresh=rerun == "all",
            renew=rerun == "stale",
        )
        self.spent += run.spent
        run.spent = self.spent


def execute(
    planned: Planned,
    registry: Registry,
    options: Mapping[str, Any],
    gpus: tuple[int, ...],
    *,
    arguments: Sequence[str],
    listener: Listener,
) -> Run:
    """Tune where that was asked, run the cells, write the records, and render the board; what became of the run.

    Args:
        planned: by `setup.prepare`.
        registry: of all plugins.
        options: as `setup.prepare` takes them.
        gpus: indices; empty for the CPU.
        arguments: of the command line that resumes the run.
        listener: hears of the progress.

    Raises:
        NothingSelectedError: if there are no cells.
        PladBenchError: as `Planned.ready`.
    """
    from plad_bench.contract import hub
    from plad_bench.plan import boardfile

    if not planned.cells:
        raise NothingSelectedError("the selection is empty", "`plad-bench plugins` lists what can be selected.")
    planned.ready(options["max_cost"], download=True)
    boardfile.extend(planned.directory / "board.toml", replace(planned.contribution, commits=hub.pins()))
    listener.begins(planned)
    executor = Executor(planned, registry, options, gpus, arguments, listener)
    run = executor.run_on(planned.directory)
    stopped = _tuned(planned, executor, run)
    if stopped is None:
        executor(run, planned.cells, planned.todo, rerun=options["rerun"])
    if run.counts["written"] or pages.outdated(planned.directory):
        pages.render(planned.directory, registry)
    return stopped or run


def _tuned(planned: Planned, executor: Executor, run: Run) -> Run | None:
    """Do the trials, and take the best settings; the run of the trials if it stopped before all were done.

    Where all trials of a method failed, their failures are those of `run`.
    """
    tuner, listener = planned.tuner, executor.listener
    if tuner is None:
        return None
    trials = executor.run_on(tuner.board)

    def execute_round(number: int, todo: Sequence[Cell]) -> None:
        listener.says(f"Trial {number + 1} of {todo[0].row if len(todo) == 1 else f'{len(todo)} methods'}")
        executor(trials, todo, todo)

    for line in tuner.searched():
        listener.says(line)
    if not planned.tune(execute_round):
        return trials
    for line in tuner.chosen():
        listener.says(line)
    run.failures |= trials.failures if tuner.lost else {}
    return None
