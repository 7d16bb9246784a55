"""The command plan: what run would do, and what that would ask of a teacher that is paid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.matrix_options import execution_options, matrix_options
from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.planned import Planned, gpus_of, prepare
from plad_bench.cli.state import State
from plad_bench.contract.errors import MissingError

if TYPE_CHECKING:
    from rich.table import Table

    from plad_bench.execute.estimate import Estimate


@click.command(short_help="Show what run would do.")
@matrix_options
@execution_options
@json_option
@click.pass_context
def plan(ctx: click.Context, /, **options: Any) -> None:
    """Show what `run` with the same options would do: cells, stages, what is cached and what is skipped, and why."""
    show_plan(prepare(ctx.ensure_object(State), options, gpus_of(options)), as_json=options["as_json"])


def show_plan(planned: Planned, *, as_json: bool) -> None:
    """Print cells and stages with their state, and what is to be asked and bought."""
    from plad_bench.execute import recording
    from plad_bench.execute.estimate import estimates
    from plad_bench.plan import requirements

    stop = ""
    try:
        requirements.check(planned.todo, planned.made)
    except MissingError as error:
        stop = str(error)
        click.echo(f"Missing, so that run would stop: {stop}", err=True)
    planned.skip_misfits()
    rows = []
    cached = {cell.id for cell in planned.cached}
    stages: dict[str, Any] = {}
    for cell in planned.cells:
        state = "skipped" if cell.skip else "cached" if cell.id in cached else "to run"
        record = recording.recorded(planned.directory / "cells", cell)
        if state == "cached" and record is not None and recording.stale(record):
            state = "cached (stale)"
        rows.append({"cell": cell.id, "state": state, "reason": cell.skip})
        if state == "to run":
            for score in cell.scores.values():
                stages |= {stage.key: stage for stage in score.walk()}
    try:
        asked = estimates(planned.todo, planned.store)
    except MissingError:  # no data, no questions to count: said above
        asked = []
    waiting = {key: stage for key, stage in stages.items() if planned.store.find(key) is None}
    if as_json:
        listed = [{"stage": s.name, "key": k, "cached": k not in waiting} for k, s in stages.items()]
        questions = [asdict(e) for e in asked]
        echo_json({"cells": rows, "stages": listed, "questions": questions, "missing": stop})
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(soft_wrap=True)
    table = Table("cell", "state", "reason", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        table.add_row(*(escape(str(v)) for v in row.values()))
    console.print(table)
    names = list(dict.fromkeys(s.name for s in stages.values()))
    table = Table("stage", "to run", "cached", box=None, pad_edge=False, header_style="bold")
    for name in names:
        keys = [k for k, s in stages.items() if s.name == name]
        missing = sum(k in waiting for k in keys)
        table.add_row(name, str(missing), str(len(keys) - missing))
    if names:
        console.print()
        console.print(table)
    if asked:
        console.print()
        console.print(_questions(asked))


def _questions(asked: Sequence[Estimate]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "asked", "stage", "questions", "answered", "tokens in, about", "tokens out, at most", "money, at most",
        box=None, pad_edge=False, header_style="bold",
    )  # fmt: skip
    for e in asked:
        money = "no price given" if e.money is None else in_full(float(f"{e.money:.4g}"))
        table.add_row(
            escape(e.teacher),
            e.stage,
            *map(str, (e.questions, e.answered, e.tokens_in, e.tokens_out)),
            money if e.paid else "-",
        )
    return table


def in_full(amount: float) -> str:
    """An amount to six digits, never with an exponent."""
    return f"{Decimal(f'{amount:.6g}'):f}"
