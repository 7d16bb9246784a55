"""What plad-bench loads: the record of the task, and how its data is read."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

from plad_bench import BadRow, Example, Loaded, MissingError, Protocol, Source, Task, TaskParams, hookimpl, param

PLAD_BENCH_API = 2
DATA = Path(__file__).with_name("dates.csv")


class SpelledDatesParams(TaskParams):
    """Parameters of spelled-dates."""

    path: Path | None = param(None, local=True)
    """A CSV file with the columns `date` and `text`; without it the package's own."""


def load(params: SpelledDatesParams) -> Iterator[Loaded]:
    """An example for each row, or what is wrong with it; then how many rows there were, so that none is lost."""
    file = params.path or DATA
    row = 0
    with file.open(encoding="utf-8", newline="") as stream:
        for row, values in enumerate(csv.DictReader(stream), 1):
            date, text = values.get("date"), values.get("text")
            if date and text:
                yield Example(prompt=date, references=(text,))
            else:
                yield BadRow(where=f"{file.name}, row {row}", reason="has no date, or no text")
    yield Source(name=file.name, rows=row)


def require(params: SpelledDatesParams) -> None:
    """Raise MissingError, before any work, if the file is not there."""
    if params.path is not None and not params.path.is_file():
        raise MissingError(f"no file {params.path}", "Give a CSV file with the columns date and text.")


TASK = Task(
    name="spelled-dates",
    summary="A date to the same date spelled out.",
    version=1,
    params=SpelledDatesParams,
    dataset="made here",
    licence="CC0-1.0",
    redistributable=True,
    load=load,
    require=require,
    metrics=("rouge-l", "length"),
    student="tiny",
    protocol=Protocol(steps=300, sft_steps=300, batch=16, max_new_tokens=16, lr=1e-3, sft_lr=3e-3),
)


@hookimpl
def plad_bench_tasks() -> Iterator[Task]:
    """Register spelled-dates."""
    yield TASK
