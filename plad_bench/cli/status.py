"""`status`: shows the progress of runs, read from their state files."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import click

from plad_bench.cli.options import echo_json, json_option, open_store, store_option


@click.command(short_help="Show the progress of runs.")
@click.option("--all", "everything", is_flag=True, help="Include finished runs.")
@store_option
@json_option
def status(store: Path, *, everything: bool, as_json: bool) -> None:
    """Show the progress of the active runs of a store, or of the most recent run if none is active."""
    from plad_bench.execute.runs import states

    found = states(open_store(store))
    live = [s for s in found if not s["finished"]]
    shown = found if everything else live or found[:1]
    if as_json:
        echo_json(shown)
        return
    if not shown:
        click.echo("No run yet.", err=True)
    for state in shown:
        click.echo("\n".join(_lines(state)))


def _lines(state: dict[str, Any]) -> list[str]:
    cells = state["cells"]
    ended = cells["done"] + cells["failed"]
    now = state["updated"] if state["finished"] else time.time()
    head = f"run {state['run']}  board {state['board']}  {state['finished'] or 'running'}  {now - state['began']:.0f} s"
    lines = [head, f"  {state['command']}", *([f"  in {state['directory']}"] if "directory" in state else [])]
    rest = f"{cells['cached']} cached, {cells['skipped']} skipped, {cells['failed']} failed"
    lines.append(
        f"  cells {ended}/{cells['to_do']}, {rest}; stages {state['stages']['finished']} finished, "
        f"{state['stages']['waiting']} waiting"
    )
    for stage in state["running"]:
        steps = f" {stage['step']:g}/{stage['total']:g}" if "step" in stage else ""
        loss = f" loss {stage['loss']:.3f}" if "loss" in stage else ""
        lines.append(f"  {stage['stage']}{steps}{loss}  {stage['seconds']:.0f} s")
    return lines
