"""`export`: scores, tables, model cards, checkpoints and prompts."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from plad_bench.cli.board_lookup import board_of, find_boards, find_record
from plad_bench.cli.export_data import data
from plad_bench.cli.export_prompts import prompts
from plad_bench.cli.options import boards_option, echo_json, json_option, open_store, store_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import MissingError, PladBenchError, UsageError
from plad_bench.contract.files import write_atomically

if TYPE_CHECKING:
    from plad_bench.leaderboard.board import Board
    from plad_bench.records.schema import Record
    from plad_bench.render.model_card import HubIds, Weights

F = TypeVar("F", bound=Callable[..., Any])


@click.group(short_help="Export scores, tables, model cards, checkpoints or prompts.")
def export() -> None:
    """Export the scores of a board, the model card or checkpoint of a cell, or the prompts of a task.

    All formats except checkpoint are printed to stdout, or written to FILE with -o.
    """


export.add_command(data)
export.add_command(prompts)


def _output_options(function: F) -> F:
    return click.option(
        "-o",
        "--output",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Write to FILE atomically.",
    )(json_option(function))


def _rows_options(function: F) -> F:
    for name, what in (
        ("compute", "Export one row per board and kind of stage: its executions and what they cost."),
        ("estimates", "Export one row per method and metric, as ranked on the board."),
    ):
        function = click.option(f"--{name}", "rows", flag_value=name, help=what)(function)
    return click.argument("names", metavar="[BOARD]...", nargs=-1)(boards_option(_output_options(function)))


def _rows(kind: str | None, boards: Iterable[Board]) -> list[dict[str, Any]]:
    from plad_bench.render import tabular_export as table

    return {None: table.cells, "estimates": table.estimates, "compute": table.compute}[kind](boards)


@export.command("csv")
@_rows_options
def csv_(names: tuple[str, ...], boards_dir: Path, output: Path | None, rows: str | None, *, as_json: bool) -> None:
    """Export the scores of BOARDs (default: all) as CSV, one row per cell and metric.

    Values are as recorded: percentages are fractions from 0 to 1. Text that a spreadsheet would read as a formula is
    prefixed with '.
    """
    from plad_bench.render import tabular_export

    _deliver("csv", tabular_export.as_csv(_rows(rows, _load(names, boards_dir))), output, as_json=as_json)


@export.command()
@_rows_options
def jsonl(names: tuple[str, ...], boards_dir: Path, output: Path | None, rows: str | None, *, as_json: bool) -> None:
    """Export the scores of BOARDs (default: all) as JSON Lines, one line per cell and metric."""
    from plad_bench.render import tabular_export

    _deliver("jsonl", tabular_export.as_jsonl(_rows(rows, _load(names, boards_dir))), output, as_json=as_json)


@export.command()
@click.argument("names", metavar="[BOARD]...", nargs=-1)
@boards_option
@_output_options
def latex(names: tuple[str, ...], boards_dir: Path, output: Path | None, *, as_json: bool) -> None:
    """Export the ranked tables of BOARDs (default: all) as LaTeX for the booktabs package."""
    from plad_bench.render import latex as paper

    boards = list(_load(names, boards_dir))
    for board in boards:
        if not any(group.rows or group.baselines for group in board.groups):
            click.echo(f"board {board.name} has no table: all its cells are incomplete or trials", err=True)
    _deliver("latex", "\n".join(map(paper.render, boards)), output, as_json=as_json)


@export.command("model-index")
@click.argument("cell")
@boards_option
@_output_options
@click.pass_context
def model_index(ctx: click.Context, /, cell: str, boards_dir: Path, output: Path | None, *, as_json: bool) -> None:
    """Export the scores of CELL as the model-index of a Hugging Face model card (YAML)."""
    from plad_bench.render import model_card

    record, _ = _found(cell, boards_dir)
    _deliver("model-index", model_card.model_index(record, _origin(ctx, record)), output, as_json=as_json)


@export.command("eval-results")
@click.argument("cell")
@boards_option
@_output_options
@click.pass_context
def eval_results(ctx: click.Context, /, cell: str, boards_dir: Path, output: Path | None, *, as_json: bool) -> None:
    """Export the scores of CELL as evaluation results of the Hugging Face hub (YAML).

    The file belongs below .eval_results/ in the model's repository. The task's data must be on the hub.
    """
    from plad_bench.render import model_card

    record, _ = _found(cell, boards_dir)
    _deliver("eval-results", model_card.eval_results(record, _origin(ctx, record)), output, as_json=as_json)


@export.command("model-card")
@click.argument("cell")
@boards_option
@_output_options
@click.pass_context
def model_card(ctx: click.Context, /, cell: str, boards_dir: Path, output: Path | None, *, as_json: bool) -> None:
    """Export the model card of CELL's checkpoint, with training settings, scores and provenance."""
    record, board = _found(cell, boards_dir)
    _deliver("model-card", _card(ctx, record, board), output, as_json=as_json)


@export.command()
@click.argument("cell")
@click.argument("directory", type=click.Path(path_type=Path))
@boards_option
@store_option
@json_option
@click.pass_context
def checkpoint(
    ctx: click.Context, /, cell: str, directory: Path, boards_dir: Path, store: Path, *, as_json: bool
) -> None:
    """Export the model of CELL and its model card to DIRECTORY, in Hugging Face format.

    The model card states the scores of these weights, and so does .eval_results/plad-bench.yaml if the hub has the
    task's data. If the weights in this store are not the recorded ones but were trained again, the card says so, and
    both contain the scores that were measured on this machine.
    """
    from plad_bench.execute import recording
    from plad_bench.render import model_card as page

    record, board = _found(cell, boards_dir)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise UsageError(f"{directory} exists and is not an empty directory", "Choose a new directory.")
    opened = open_store(store)
    responses = opened.find(record.key) if record.key else None
    inputs = responses.manifest["document"]["inputs"] if responses else {}
    if inputs and "model" not in inputs:
        raise UsageError(f"{record.cell} is a teacher behind an endpoint, which has no local model")
    model = opened.find(inputs["model"]) if inputs else None
    if responses is None or model is None:
        raise MissingError(
            f"the checkpoint of {record.cell} is not in the store {store}",
            "Give the --store that contains it, or train it again: run the command in its record with --board NAME.",
        )
    if (model.path / "model" / "pointer.json").is_file():
        raise UsageError(f"{record.cell} is an unmodified published model", "Download it from its publisher.")
    remade = not recording.rests_on(record, responses, model)
    config = json.loads((model.path / "model" / "config.json").read_text(encoding="utf-8"))
    weights = page.Weights(remade=remade, encoder_decoder=bool(config.get("is_encoder_decoder")))
    measured = recording.measured(record, opened, model) if remade else record
    readme = _card(ctx, measured, board, weights).encode()
    # Without file modes: safetensors creates files that only their owner can read.
    shutil.copytree(model.path / "model", directory, dirs_exist_ok=True, copy_function=shutil.copyfile)
    write_atomically(directory / "README.md", readme)
    if measured.metrics and page.hub_dataset(measured, origin := _origin(ctx, measured)):
        write_atomically(directory / page.EVAL_RESULTS, page.eval_results(measured, origin).encode())
    if remade:
        click.echo(
            f"Note: the weights of {record.cell} in this store come from another training than those of its record. "
            "The model card says so, and states only scores of these weights.",
            err=True,
        )
    if as_json:
        echo_json({"cell": record.cell, "directory": str(directory), "remade": remade})
    else:
        click.echo(directory)


def _load(names: tuple[str, ...], boards_dir: Path) -> Iterable[Board]:
    """Load boards, and print the files that were left out to stderr."""
    from plad_bench.leaderboard.loading import load

    boards = [load(directory) for directory in find_boards(names, boards_dir).values()]
    for board in boards:
        for problem in board.problems:
            click.echo(f"left out: {board.name}/cells/{problem.file}: {problem.reason}", err=True)
    return boards


def _found(cell: str, boards_dir: Path) -> tuple[Record, Board | None]:
    """The record of a cell and its board, if it is on one; a record that the board leaves out is refused."""
    from plad_bench.leaderboard.loading import load

    path, record = find_record(cell, boards_dir)
    directory = board_of(path)
    if directory is None:
        return record, None
    board = load(directory)
    file = path.absolute().relative_to(directory / "cells").as_posix()
    if wrong := [problem.reason for problem in board.problems if problem.file == file]:
        raise UsageError(f"the board leaves out {file}: {wrong[0]}", "Restore the file, or run the cell again.")
    return record, board


def _card(ctx: click.Context, record: Record, board: Board | None, weights: Weights | None = None) -> str:
    from plad_bench.render import model_card

    return model_card.render(record, board, _origin(ctx, record), weights)


def _origin(ctx: click.Context, record: Record) -> HubIds:
    """The hub ids of a record's base model and data set, as far as the current plugins know them."""
    from plad_bench.render.model_card import HubIds

    registry = ctx.ensure_object(State).registry

    def hub_id(find: Callable[[], str]) -> str:
        try:
            text = find()
        except (PladBenchError, ValueError, TypeError, AttributeError, KeyError):
            return ""
        return text if re.fullmatch(r"[\w.-]+/[\w.-]+", text, re.ASCII) else ""

    def student() -> str:
        component = registry.get("student", record.student.name)
        return str(component.model(component.params(**record.student.params)).id)

    return HubIds(
        base_model=hub_id(student),
        dataset=hub_id(lambda: registry.get("task", record.task.name).dataset),
    )


def _deliver(form: str, text: str, output: Path | None, *, as_json: bool) -> None:
    """Write an export to a file, or print it."""
    if output is not None:
        write_atomically(output, text.encode())
    if as_json:
        echo_json({"format": form, **({"text": text} if output is None else {"file": str(output)})})
    elif output is None:
        click.echo(text, nl=False)
