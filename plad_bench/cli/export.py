"""`export`: take things out of a board."""

from __future__ import annotations

import shutil
from pathlib import Path

import click

from plad_bench.cli.finding import find_record
from plad_bench.cli.options import boards_option, open_store, store_option
from plad_bench.contract.errors import MissingError, UsageError


@click.group(short_help="Export what a board holds.")
def export() -> None:
    """Export what a board holds."""


@export.command()
@click.argument("cell")
@click.argument("directory", type=click.Path(path_type=Path))
@boards_option
@store_option
def checkpoint(cell: str, directory: Path, boards_dir: Path, store: Path) -> None:
    """Write the model of CELL to DIRECTORY in Hugging Face format; transformers loads it from there."""
    _, record = find_record(cell, boards_dir)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} exists and is not an empty directory", "Name a new one.")
    opened = open_store(store)
    responses = opened.find(record.key) if record.key else None
    model = opened.find(responses.manifest["document"]["inputs"]["model"]) if responses else None
    if model is None:
        raise MissingError(
            f"the checkpoint of {record.cell} is not in the store {store}",
            "Give the --store it was made in, or make it again: its record's command with --rerun all.",
        )
    if (model.path / "model" / "pointer.json").is_file():
        raise UsageError(f"{record.cell} is a published model, untouched", "Download it from where it is published.")
    shutil.copytree(model.path / "model", directory, dirs_exist_ok=True)
    click.echo(directory)
