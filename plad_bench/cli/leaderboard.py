"""`leaderboard`: renders pages from records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.board_lookup import find_boards
from plad_bench.cli.options import boards_option, echo_json, json_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode, UsageError
from plad_bench.contract.files import unwritable
from plad_bench.running import pages

if TYPE_CHECKING:
    from plad_bench.leaderboard.board import Board, Group

_INDEX = "*"
"""Key of the index page among the boards' names; no board can have this name."""


@click.command(short_help="Render boards from their records.")
@click.argument("names", nargs=-1)
@click.option(
    "--check", is_flag=True, help="Write nothing; exit with 1 if a page is out of date or a record is invalid."
)
@click.option(
    "--into",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Also update the sections between <!-- plad-bench:NAME --> and <!-- /plad-bench:NAME --> in FILE.",
)
@click.option(
    "--drop",
    multiple=True,
    metavar="WHAT",
    help="First remove records of the boards NAMES: older (records of older data), failed, skipped, trial, or a "
    "prefix of a cell's name. May be repeated.",
)
@boards_option
@json_option
@click.pass_context
def leaderboard(
    ctx: click.Context,
    /,
    names: tuple[str, ...],
    boards_dir: Path,
    into: Path | None,
    drop: tuple[str, ...],
    *,
    check: bool,
    as_json: bool,
) -> int:
    """Render the boards NAMES from their records, or all boards in --boards-dir and their index page.

    A board's page is written as README.md with plots, and as a self-contained HTML file. Rendering is deterministic:
    the same records give the same bytes.
    """
    from plad_bench.leaderboard.loading import load
    from plad_bench.render.write import render_index

    registry = ctx.ensure_object(State).registry
    found = find_boards(names, boards_dir)
    if not check:
        _migrate(found)
    dropped = _drop(found, drop, named=bool(names), check=check) if drop else {}
    boards = {name: load(directory) for name, directory in found.items()}
    filled = None if into is None else _filled(into, boards, boards_dir)
    report: dict[str, dict[str, list[str]]] = {}
    for name, board in boards.items():
        files = pages.files(board, found[name], registry)
        cells = found[name] / "cells"
        left_out = [f"{cells / problem.file}: {problem.reason}" for problem in board.problems]
        if check:
            report[name] = {"differs": [*pages.differing(files), *left_out]}
        else:
            pages.write(files, found[name])
            page = [str(path) for path in files if path.parent == found[name]]
            report[name] = {"page": page, "left_out": left_out}
            if drop:
                report[name]["dropped"] = dropped[name]
    if not names and (files := render_index(boards, boards_dir)):
        if check:  # an index page is optional
            report[_INDEX] = {"differs": pages.differing({p: data for p, data in files.items() if p.is_file()})}
        else:
            report[_INDEX] = {"page": pages.write(files)}
    if into is not None and filled is not None:
        report[into.name] = {"differs": pages.differing(filled)} if check else {"page": pages.write(filled)}
    differing = [path for r in report.values() for path in r.get("differs", [])]
    if as_json:
        echo_json(report)
    elif check:
        _tell_differences(differing, len(report), into)
    else:
        _tell(report)
    return ExitCode.FAILED if differing else ExitCode.OK


def _migrate(boards: Mapping[str, Path]) -> None:
    """Migrate records of older versions to the current schema."""
    from plad_bench.records import migration

    for name, directory in boards.items():
        if count := migration.migrate(directory):
            click.echo(f"{name}: {count} records migrated to the current schema", err=True)


def _drop(found: Mapping[str, Path], what: Sequence[str], *, named: bool, check: bool) -> dict[str, list[str]]:
    """Remove records, either from all named boards or, on an error, from none. Returns the removed files by board."""
    from plad_bench.leaderboard import drop
    from plad_bench.leaderboard.loading import load

    if check:
        raise UsageError("--check and --drop cannot be combined", "Use --drop without --check.")
    if not named:
        raise UsageError("--drop needs the names of boards", "Give them: leaderboard NAME --drop ...")
    files = {name: drop.chosen(load(directory), directory, what) for name, directory in found.items()}
    for name, records in files.items():
        try:
            drop.remove(records, found[name] / "cells")
        except OSError as error:
            raise unwritable(found[name], error) from error
    return {name: [str(record) for record in records] for name, records in files.items()}


def _tell(report: Mapping[str, Mapping[str, list[str]]]) -> None:
    """Print the pages that were written, and on stderr the records that were removed or left out."""
    for of in report.values():
        for path in of.get("dropped", []):
            click.echo(f"removed: {path}", err=True)
        for line in of.get("left_out", []):
            click.echo(f"left out: {line}", err=True)
        click.echo("\n".join(of["page"]))


def _tell_differences(differing: list[str], checked: int, into: Path | None) -> None:
    """Print the pages that differ, and on stderr a remedy."""
    for path in differing:
        click.echo(path)
    click.echo(f"{checked} pages checked, {len(differing)} problems", err=True)
    if differing:
        again = f" --into {into}" if into else ""
        click.echo(
            f"To update pages, run `plad-bench leaderboard{again}`. If a record was left out, restore it from version "
            "control or run its cell again.",
            err=True,
        )


def summary(directory: Path) -> None:
    """Print the tables of a board on stdout, with as many metrics as fit the terminal, and the answer in words."""
    from rich.console import Console
    from rich.text import Text

    from plad_bench.leaderboard.loading import load
    from plad_bench.render import entries, origin, pieces
    from plad_bench.render.answer import answer

    console = Console()
    board = load(directory)
    for group in board.groups:
        console.print(Text(f"{group.task}: {group.student} taught by {group.teacher}", style="bold"), soft_wrap=True)
        if group.baselines or group.rows:
            console.print(_table(group, console.width))
            if entries.one_record([*group.baselines, *group.rows]):
                click.echo(entries.DAGGER)
            if line := answer(group):
                click.echo(f"\n{pieces.plain(line)}")
        else:
            click.echo("Nothing to rank: see the page for incomplete and trial cells.")
    if older := origin.older_data(board):
        click.echo(pieces.plain(older), err=True)
    for problem in board.problems:
        click.echo(f"left out: {problem.file}: {problem.reason}", err=True)


def _table(group: Group, width: int) -> Any:
    from rich.table import Table
    from rich.text import Text

    from plad_bench.render import entries, markdown

    rows = [*group.baselines, *group.rows]
    columns = {
        markdown.header(metric): [
            entries.value(row.estimates.get(metric.name), metric, entries.decimals(group, metric)) for row in rows
        ]
        for metric in group.metrics
    }
    room = width - max(len(row.label) for row in rows) - 12
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("#", justify="right")
    table.add_column("method", no_wrap=True)
    shown: list[list[str]] = []
    for heading, values in columns.items():
        room -= max(len(heading), *map(len, values)) + 2
        if room >= 0 or not shown:
            table.add_column(Text(heading), justify="right", no_wrap=True)
            shown.append(values)
    table.add_column("seeds", justify="right", no_wrap=True)
    if more := len(columns) - len(shown):
        table.caption = f"{more} more metric{'s are' if more > 1 else ' is'} on the page."
        table.caption_justify = "left"
    for index, row in enumerate(rows):
        rank = entries.starred(row)
        cells = [Text(column[index]) for column in shown]
        style = "dim" if row.rank is None else ""
        table.add_row(rank, Text(row.label), *cells, entries.seeds(row), style=style)
    return table


def _filled(file: Path, boards: Mapping[str, Board], boards_dir: Path) -> dict[Path, bytes]:
    """The file with the sections of these boards updated.

    Raises:
        UsageError: if the file has no marker, an unclosed one, or one of a board that does not exist.
    """
    import os

    from plad_bench.render import readme_section

    try:
        text = file.read_bytes().decode("utf-8")
        find_boards(readme_section.names(text), boards_dir)
        filled = readme_section.fill(text, boards, Path(os.path.relpath(boards_dir, file.parent)).as_posix())
    except UnicodeDecodeError as error:
        raise UsageError(f"--into {file}: invalid UTF-8 at byte {error.start}", "Give a UTF-8 text file.") from None
    except UsageError as error:
        raise UsageError(f"--into {file}: {error.message}", error.remedy) from None
    return {file: filled.encode()}
