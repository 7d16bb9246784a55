"""Progress of a run on stderr: bars on a terminal, plain lines otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn

from plad_bench.cli.forecast import Forecast, in_words
from plad_bench.contract import rounds
from plad_bench.execute.engine import Failure, Running
from plad_bench.execute.runs import CellWatcher
from plad_bench.execute.store import Artifact
from plad_bench.plan.cell import Cell
from plad_bench.plan.stage import Stage
from plad_bench.records.text import clean

_QUIET = {"score", "data", "tokenizer", "init", "pairs"}
"""Stages too short for a line of their own."""
_SHOWN = {
    "loss": "loss",
    "logprob_chosen": "log q(y+)",
    "logprob_rejected": "log q(y-)",
    "accuracy": "accuracy",
    "margin": "margin",
}
_PLAIN_EVERY_S = 15.0
_BAR = 12
_FIXED = 2 + (_BAR + 1) + 10 + 8
"""Columns of a live line for spinner, bar, steps and time."""


def watcher(cells: int) -> CellWatcher:
    """Bars if stderr is a terminal, otherwise lines."""
    return Bars(cells) if sys.stderr.isatty() else Lines(cells)


def numbers(progress: Mapping[str, float], room: int = 200) -> str:
    """The loss of a training stage and, for a method that trains on pairs, how well it orders them.

    Args:
        progress: what the stage reported.
        room: characters there are; numbers that do not fit are left out.
    """
    shown = ""
    for name, word in _SHOWN.items():
        if name in progress and len(longer := f"{shown}  {word} {progress[name]:.3g}".lstrip()) <= room:
            shown = longer
    return shown


def limits(artifact: Artifact) -> str:
    """How a stage was made to fit its device's memory; empty if it fitted."""
    made = artifact.manifest["provenance"]
    said = [f"micro-batches of {made['micro_batch']}"] if made.get("micro_batch") else []
    said += ["activations computed twice"] if made.get("checkpointing") else []
    return f", to fit the memory with {' and '.join(said)}" if said else ""


def remaining(forecast: Forecast, running: Sequence[Running], waiting: Sequence[Stage]) -> tuple[str, str]:
    """How many stages are left, and the estimated time they will take, which is empty as long as it is not known."""
    count = len(running) + len(waiting)
    return f"{count} stage{'s' if count != 1 else ''} left", in_words(forecast.left(running, waiting))


class Bars(CellWatcher):
    """Live bars: one for the cells, and one for each running stage with its steps and loss."""

    def __init__(self, cells: int) -> None:
        console = Console(stderr=True)
        self.label_room = max(16, (console.width - _FIXED) * 3 // 5)
        self.note_room = max(0, console.width - _FIXED - self.label_room - 1)
        columns = (
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=_BAR),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
        )
        self.progress = Progress(*columns, console=console, transient=True)
        self.cells = self.progress.add_task("cells", total=cells, note="")
        self.bars: dict[str, TaskID] = {}
        self.forecast = Forecast()

    def __enter__(self) -> Bars:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def stage_started(self, running: Running) -> None:
        if rounds.kind(running.stage.name) not in _QUIET:
            label = clean(running.stage.label, self.label_room)
            self.bars[running.stage.key] = self.progress.add_task(label, total=None, note="")

    def stage_retried(self, stage: Stage, failure: Failure) -> None:
        self._remove_bar(stage)
        self.progress.console.print("[yellow]retrying[/] ", end="")
        self.progress.console.print(f"{stage.label}: ", markup=False, highlight=False, end="")
        self.progress.console.print(failure.message, markup=False, highlight=False)

    def stage_finished(self, stage: Stage, artifact: Artifact | None, failure: Failure | None) -> None:
        self._remove_bar(stage)
        if artifact is not None:
            self.forecast.finished(stage, artifact)
        if failure is not None:
            self.progress.console.print("skipped " if failure.skipped else "[red]failed[/] ", end="")
            self.progress.console.print(f"{stage.label}: ", markup=False, highlight=False, end="")
            self.progress.console.print(failure.message, markup=False, highlight=False)
        elif artifact is not None and rounds.kind(stage.name) not in _QUIET:
            told = f"{stage.label}  {artifact.manifest['seconds']:.1f} s{limits(artifact)}"
            self.progress.console.print(told, style="dim", markup=False, highlight=False)

    def _remove_bar(self, stage: Stage) -> None:
        if (bar := self.bars.pop(stage.key, None)) is not None:
            self.progress.remove_task(bar)

    def tick(self, running: Sequence[Running], waiting: Sequence[Stage]) -> None:
        for one in running:
            values = one.progress()
            if one.stage.key in self.bars and values:
                note = numbers(values, self.note_room)
                self.progress.update(
                    self.bars[one.stage.key], completed=values["step"], total=values["total"], note=note
                )
        stages, left = remaining(self.forecast, running, waiting)
        self.progress.update(self.cells, description=f"cells: {stages}", note=left)

    def cell_finished(self, cell: Cell, record: Any) -> None:
        self.progress.advance(self.cells)


class Lines(CellWatcher):
    """A line for every longer stage that finishes and, every 15 seconds, one for each that is running."""

    def __init__(self, cells: int) -> None:
        self.total, self.done, self.began, self.told = cells, 0, time.monotonic(), time.monotonic()
        self.forecast = Forecast()

    def stage_retried(self, stage: Stage, failure: Failure) -> None:
        self._say(f"retrying {stage.label}: {failure.message}")

    def stage_finished(self, stage: Stage, artifact: Artifact | None, failure: Failure | None) -> None:
        if artifact is not None:
            self.forecast.finished(stage, artifact)
        if failure is not None:
            self._say(f"{'skipped' if failure.skipped else 'failed'} {stage.label}: {failure.message}")
        elif artifact is not None and rounds.kind(stage.name) not in _QUIET:
            self._say(f"{stage.label}: done in {artifact.manifest['seconds']:.1f} s{limits(artifact)}")

    def tick(self, running: Sequence[Running], waiting: Sequence[Stage]) -> None:
        if time.monotonic() - self.told < _PLAIN_EVERY_S:
            return
        self._say(", ".join(filter(None, remaining(self.forecast, running, waiting))))
        for one in running:
            if (values := one.progress()) and rounds.kind(one.stage.name) not in _QUIET:
                self._say(f"{one.stage.label}: {values['step']:g}/{values['total']:g} {numbers(values)}".rstrip())

    def cell_finished(self, cell: Cell, record: Any) -> None:
        self.done += 1
        self._say(f"cell {self.done}/{self.total} {record.status}: {cell.id}")

    def _say(self, text: str) -> None:
        self.told = time.monotonic()
        click.echo(f"[{self.told - self.began:6.1f} s] {text}", err=True)
