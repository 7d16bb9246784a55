"""`run`: plans, executes, records and renders a comparison."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Container, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.matrix_options import execution_options, matrix_options
from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.plan import data_lines, in_full, show_plan
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode
from plad_bench.execute import recording
from plad_bench.execute.runs import CellWatcher, Run
from plad_bench.running import effective
from plad_bench.running.execution import Listener, execute
from plad_bench.running.setup import Planned, gpus_of, prepare, prepare_run

if TYPE_CHECKING:
    from plad_bench.records.schema import Record


@click.command(short_help="Run a comparison and render its board.")
@matrix_options
@execution_options
@click.option("--dry-run", is_flag=True, help="Show the plan and exit.")
@json_option
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> int:
    """Run all combinations of methods, students, teachers, tasks and seeds, and render the board.

    Results are cached: to resume an interrupted run, repeat the command. Without options, `run` compares four methods
    on the built-in task `demo`, offline, on the CPU, and writes the board `quickstart`. Pretrained students use the
    settings of a recipe (docs/recipes.md) unless an option or the board overrides them.
    """
    registry, gpus = ctx.ensure_object(State).registry, gpus_of(options)
    if options["dry_run"]:
        return show_plan(prepare(registry, options, gpus), options, gpus)
    planned = prepare_run(registry, options, gpus)
    terminal = _Terminal(options, gpus)
    try:
        finished = execute(planned, registry, options, gpus, arguments=sys.argv[1:], listener=terminal)
    except KeyboardInterrupt:
        click.echo(f"\n{_resume()}", err=True)
        raise
    return _finish(planned, finished, options)


class _Terminal(Listener):
    """Says on stderr what a run does."""

    def __init__(self, options: Mapping[str, Any], gpus: tuple[int, ...]) -> None:
        self.options, self.gpus = options, gpus

    def begins(self, planned: Planned) -> None:
        _announce(planned, self.options, self.gpus)

    def says(self, line: str) -> None:
        click.echo(line, err=True)

    def watcher(self, cells: int) -> CellWatcher:
        from plad_bench.cli.progress import watcher

        return watcher(cells)


def _announce(planned: Planned, options: Mapping[str, Any], gpus: tuple[int, ...]) -> None:
    """Say on stderr what will run and what cannot, before the first stage starts."""
    from plad_bench.execute import outlook

    if planned.todo:
        click.echo(_extent(planned), err=True)
    for line in effective.lines(planned.settings) if planned.todo else ():
        click.echo(line, err=True)
    for line in data_lines(planned.data, planned.responses):
        click.echo(line, err=True)
    for line in outlook.lines(planned.outlook(options, gpus)) if planned.todo else ():
        click.echo(line, err=True)
    for remark in planned.remarks():
        click.echo(f"Note: {remark}", err=True)
    for cell in planned.skipped:
        if cell.seed == 0:
            click.echo(f"skipped: {cell.row}: {cell.skip}", err=True)


def _extent(planned: Planned) -> str:
    """What will run, in a sentence."""
    of_methods = [cell for cell in planned.todo if cell.method is not None]
    baselines = {cell.row for cell in planned.todo if cell.method is None}
    seeds = {cell.seed for cell in planned.todo}
    rows = [counted(len({cell.row for cell in of_methods}), "method"), counted(len(baselines), "baseline")]
    others = [f"{len(planned.cached)} already done"] if planned.cached else []
    others += [f"{len(planned.skipped)} skipped"] if planned.skipped else []
    return (
        f"Board {planned.directory.name}: {counted(len(planned.todo), 'cell')} to run "
        f"({' and '.join(rows)}, {counted(len(seeds), 'seed')})"
        f"{''.join(f', {other}' for other in others)}."
    )


def counted(count: int, noun: str) -> str:
    """A number with its noun, such as 1 cell or 2 cells."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _finish(planned: Planned, run_state: Run, options: Mapping[str, Any]) -> int:
    from plad_bench.cli.leaderboard import summary

    page, counts = planned.directory / "README.md", run_state.counts
    code = ExitCode.OK
    if run_state.failures:
        code = ExitCode.MISSING if all(f.missing for f in run_state.failures.values()) else ExitCode.FAILED
    elif run_state.unpaid:
        code = ExitCode.BUDGET
    if options["as_json"]:
        money = {"spent": run_state.spent, "unpaid": len(run_state.unpaid)}
        echo_json({**counts, **money, "board": planned.title, "page": str(page), "exit_code": int(code)})
    else:
        summary(planned.directory)
    tell = ", ".join(f"{counts[name]} {name}" for name in ("done", "cached", "skipped", "failed"))
    click.echo(f"\nCells: {tell}. Board: {page} and {page.with_name('index.html').name}", err=True)
    cells = planned.directory / "cells"
    records = [record for cell in planned.cells if (record := recording.recorded(cells, cell)) is not None]
    click.echo(_signals(records) + _data(records, planned.data) + _bad_rows(records), err=True, nl=False)
    shown: set[str] = set()
    for cell, failure in run_state.failures.items():
        if failure.message not in shown:
            shown.add(failure.message)
            click.echo(f"failed: {cell}\n  {failure.stage}: {failure.message}\n  log: {failure.log}", err=True)
    if run_state.spent:
        click.echo(f"spent: {in_full(run_state.spent)}", err=True)
    if run_state.unpaid:
        click.echo(
            f"{counted(len(run_state.unpaid), 'cell')} not run: the budget is spent. The next request could have "
            f"exceeded --max-cost {options['max_cost']:g}. Responses that were paid for are kept. Every run has its "
            "own budget.",
            err=True,
        )
    if run_state.failures or run_state.unpaid:
        click.echo(_resume(), err=True)
    return code


def _resume() -> str:
    return f"To resume: {shlex.join(['plad-bench', *sys.argv[1:]])}"


def _signals(records: Sequence[Record]) -> str:
    """What precomputed teacher log-probabilities cost and saved, on a line; empty if no cell read any."""
    costs = [record.cost for record in records if record.cost.get("signals_tokens")]
    if not costs:
        return ""
    rate = costs[0]["signals_device_seconds"] / costs[0]["signals_tokens"]
    once = {(cost["signals_bytes"], cost["signals_device_seconds"]) for cost in costs}
    read = sum(cost.get("teacher_tokens_cached", 0) for cost in costs)
    size, seconds = (sum(values) for values in zip(*once, strict=True))
    several = "s" if len(costs) > 1 else ""
    return (
        f"Teacher log-probabilities: computed once in {seconds:,.1f} s, {size / 1e6:,.1f} MB; {len(costs)} "
        f"training{several} read {read:,.0f} tokens of them, which saved about {read * rate:,.0f} s.\n"
    )


def _data(records: Sequence[Record], read: Container[str]) -> str:
    """How rows were merged or left out, a line for each fact, of the tasks whose data was not read in this run."""
    from plad_bench.render.data_facts import facts

    counts = {record.task.selector: record.counts for record in reversed(records)}
    told = ((task, facts(counts[task], "data.")) for task in counts if task not in read)
    return "".join(f"{task}: {fact}\n" for task, of_task in told for fact in of_task)


def _bad_rows(records: Sequence[Record]) -> str:
    """How many rows of a task or of recorded responses were left out: a line for each that has some, with the first."""
    from plad_bench.records.text import printable

    lines: dict[str, str] = {}
    for record in records:
        teacher = record.teacher.selector
        for stage, whose in (("data", record.task.selector), ("teach", teacher), ("generate", teacher)):
            if count := record.counts.get(f"{stage}.bad_rows"):
                first = record.provenance.get("notes", {}).get(stage, {}).get("bad_rows", [])[:1]
                told = [f"{count:.0f} row{'s' if count > 1 else ''} of {whose} left out", *map(printable, first)]
                lines[whose] = "; the first: ".join(told) + "\n"
    return "".join(lines.values())
