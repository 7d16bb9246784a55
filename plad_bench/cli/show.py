"""`show`: one record in full, with samples of the cell's responses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.board_lookup import find_record
from plad_bench.cli.options import boards_option, echo_json, json_option, open_store, store_option
from plad_bench.contract.errors import MissingError

if TYPE_CHECKING:
    from plad_bench.records.schema import Record

SIDE_BY_SIDE = 100
"""Terminal width from which texts are shown side by side."""


@click.command(short_help="Show one record.")
@click.argument("cell")
@click.option(
    "--samples",
    type=click.IntRange(0),
    default=3,
    show_default=True,
    help="Number of prompts to show with the responses to them.",
)
@boards_option
@store_option
@json_option
def show(cell: str, samples: int, boards_dir: Path, store: Path, *, as_json: bool) -> None:
    """Show the record of CELL: scores, parameters, cost, provenance, and samples of its responses.

    CELL is the full name of a cell, BOARD/TASK/STUDENT+TEACHER/METHOD/seed-N, such as
    quickstart/demo/tiny+small/plad/seed-0; a part of it that matches one cell only; or a record file. A sample is a
    prompt with a reference, the teacher's response and the cell's. Samples are read from the store.
    """
    path, record = find_record(cell, boards_dir)
    drawn, missing = _samples(path, record, store, samples)
    if as_json:
        echo_json({**record.model_dump(mode="json", by_alias=True), "samples": drawn, "samples_missing": missing})
        return
    _print_record(record)
    _print_samples(drawn)
    if missing:
        click.echo(f"No samples: {missing}", err=True)
    click.echo(f"\n{path}")


def _samples(path: Path, record: Record, store: Path, count: int) -> tuple[list[dict[str, str]], str]:
    """Samples, and the reason if there are none."""
    from plad_bench.execute import texts

    if not count or record.status in {"failed", "skipped"}:
        return [], ""
    try:
        return texts.read(open_store(store), record, _teacher(path, record), count), ""
    except MissingError as error:
        return [], str(error)


def _teacher(path: Path, record: Record) -> Record | None:
    """The record of the teacher that belongs to a cell's record."""
    from plad_bench.records import storage

    for file in sorted(path.parent.parent.glob("teacher/*.json")):
        try:
            found = storage.read(file)
        except storage.RecordError:
            continue
        if found.method.name == "teacher" and (found.task, found.teacher) == (record.task, record.teacher):
            return found
    return None


def _print_record(record: Record) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from plad_bench.leaderboard import statistics
    from plad_bench.records.text import printable

    console = Console(soft_wrap=True)  # the cell's id must not wrap, so that it can be copied
    console.print(Text(f"{record.cell}  {record.status}", style="bold"))
    if record.reason:
        console.print(Text(printable(record.reason)))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("metric", "value", "± 95 %", "n", "better"):
        table.add_column(column, justify="right" if column in {"value", "± 95 %", "n"} else "left")
    for name, metric in record.metrics.items():
        scale = 100 if metric.unit == "%" else 1
        alone = statistics.of_examples(metric.value, metric.stderr, metric.n)
        value = "" if alone is None else f"{scale * alone.value:.2f}"
        half = "" if alone is None or metric.stderr is None else f"{scale * alone.half_width:.2f}"
        unit = f" ({metric.unit})" if metric.unit else ""
        table.add_row(Text(printable(f"{name}{unit}")), value, half, str(metric.n), metric.better or "")
    console.print(table)
    console.print(Text("Intervals are over the examples of this cell.", style="dim"))
    facts = {
        "method": {**record.method.params, "lr": record.method.lr},
        "protocol": record.protocol,
        "counts": record.counts,
        "cost": record.cost,
        "timing": record.timing,
        "provenance": record.provenance,
    }
    for name, values in facts.items():
        console.print(Text(name, style="bold"))
        whole = name in {"counts", "cost"}
        for key, value in values.items():
            rounded = int(value) if whole and isinstance(value, float) and value.is_integer() else value
            for line in _told(key, rounded, "  "):
                console.print(Text(printable(line)))


def _told(name: str, value: Any, indent: str) -> Iterator[str]:
    """A value on one line; a list or dictionary on one line for each entry, indented below its name."""
    if not isinstance(value, dict | list):
        yield f"{indent}{name}: {value}"
        return
    yield f"{indent}{name}:{'' if value else ' none'}"
    parts = value.items() if isinstance(value, dict) else enumerate(value, 1)
    for key, part in parts:
        yield from _told(str(key), part, f"{indent}  ")


def _print_samples(samples: list[dict[str, str]]) -> None:
    """Print each prompt with its texts, side by side if the terminal is wide enough."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from plad_bench.records.text import printable

    console = Console()
    for sample in samples:
        texts = {name: Text(printable(text).strip() or "(blank)") for name, text in sample.items()}
        console.print(Text("\nprompt: ", style="bold") + texts.pop("prompt"))
        if console.width >= SIDE_BY_SIDE:
            table = Table(*texts, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", expand=True)
            for column in table.columns:
                column.ratio, column.overflow = 1, "fold"
            table.add_row(*texts.values())
            console.print(table)
        else:
            for name, text in texts.items():
                console.print(Text(f"{name}: ", style="dim") + text)
