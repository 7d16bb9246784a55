"""`show`: one record in full."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.finding import find_record
from plad_bench.cli.options import boards_option, echo_json, json_option, open_store, store_option

if TYPE_CHECKING:
    from plad_bench.report.results import Record


@click.command(short_help="Show one record.")
@click.argument("cell")
@click.option(
    "--samples", type=click.IntRange(0), default=3, show_default=True, help="Examples to show, from the store."
)
@boards_option
@store_option
@json_option
def show(cell: str, samples: int, boards_dir: Path, store: Path, *, as_json: bool) -> None:
    """Show the record of CELL: scores, parameters, cost, provenance, and samples of what it wrote.

    CELL is a record file, or any part of a cell's id, such as quickstart/demo/tiny+small/plad/seed-0.
    """
    path, record = find_record(cell, boards_dir)
    drawn = list(_samples(record, store, samples))
    if as_json:
        echo_json({**record.model_dump(mode="json", by_alias=True), "samples": drawn})
        return
    _print_record(path, record, drawn)


def _samples(record: Record, store: Path, count: int) -> Iterator[dict[str, Any]]:
    """Prompts with references and the response, while the store still has them."""
    import json

    opened = open_store(store)
    responses = opened.find(record.key) if record.key else None
    if responses is None or not count:
        return
    data = opened.find(responses.manifest["document"]["inputs"]["data"])
    if data is None:
        return
    split = responses.manifest["document"]["spec"]["split"]
    rows = (json.loads(line) for line in (data.path / f"{split}.jsonl").read_text(encoding="utf-8").splitlines())
    examples = {row["id"]: row for row in rows}
    for line in (responses.path / "responses.jsonl").read_text(encoding="utf-8").splitlines()[:count]:
        row = json.loads(line)
        example = examples[row["id"]]
        yield {
            "prompt": example["prompt"],
            "reference": example["references"][0],
            "response": row["responses"][0]["text"],
        }


def _print_record(path: Path, record: Record, samples: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    console.print(Text(f"{record.cell}  {record.status}", style="bold"))
    if record.reason:
        console.print(Text(record.reason))
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in ("metric", "value", "± 95 %", "n", "better"):
        table.add_column(column, justify="right" if column in {"value", "± 95 %", "n"} else "left")
    for name, metric in record.metrics.items():
        scale = 100 if metric.unit == "%" else 1
        value = "" if metric.value is None else f"{metric.value * scale:.2f}"
        half = "" if metric.stderr is None else f"{1.96 * metric.stderr * scale:.2f}"
        table.add_row(Text(name), value, half, str(metric.n), metric.better or "")
    console.print(table)
    console.print(Text("intervals: over examples, of this cell alone", style="dim"))
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
        for key, value in values.items():
            console.print(Text(f"  {key}: {value}"))
    for sample in samples:
        console.print()
        for name, text in sample.items():
            console.print(Text(f"{name}: ", style="dim") + Text(text))
    console.print(Text(f"\n{path}", style="dim"))
