"""`plan`: what `run` would do, and the requests that it would send to paid endpoints."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.matrix_options import execution_options, matrix_options
from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.state import State
from plad_bench.contract import gc_pause, rounds
from plad_bench.contract.errors import ExitCode, MissingError, PladBenchError, StageError
from plad_bench.plan.resources import GPUS
from plad_bench.running import effective
from plad_bench.running.setup import Planned, gpus_of, prepare

if TYPE_CHECKING:
    from plad_bench.contract.requests import RequestContext
    from plad_bench.execute.estimate import RequestEstimate
    from plad_bench.execute.stages.data import Prepared

STAGES = {
    "data": "read, check and split the data",
    "tokenizer": "train the tokenizer",
    "init": "load or initialise the models",
    "teacher": "fine-tune the teacher on the references",
    "teach": "generate the teacher's training responses",
    "sft-init": "train the SFT initialisation",
    "sample": "generate the student's off-policy samples",
    "pairs": "build preference pairs",
    "reference": "compute the reference model's log-probabilities",
    "signals": "compute the teacher's log-probabilities",
    "distill": "train with each method",
    "generate": "generate the responses that are scored",
    "evaluate-samples": "sample several responses to each evaluated prompt",
    "score": "score the responses, once for each metric",
    "score-samples": "score the samples, once for each metric",
}
"""What stages do, by name, inputs first. Names of signals end with the source of the text."""


@click.command(short_help="Show what run would do.")
@matrix_options
@execution_options
@click.option("--show-prompt", is_flag=True, help="Show the formatted prompt of each model, with token ids.")
@click.option(
    "--on",
    type=click.Choice([*GPUS]),
    help="Estimate memory and time for one GPU of this kind instead of this machine.",
)
@json_option
@click.pass_context
def plan(ctx: click.Context, /, **options: Any) -> int:
    """Show which cells and stages `run` would execute, reuse or skip with the same options, and why.

    If `run` would stop before its first stage, for example because a model is missing, `plan` exits with the same code.
    """
    gpus = (0,) if options["on"] else gpus_of(options)
    return show_plan(prepare(ctx.ensure_object(State).registry, options, gpus), options, gpus)


@gc_pause.paused()
def show_plan(planned: Planned, options: Mapping[str, Any], gpus: tuple[int, ...]) -> int:
    """Print cells and stages with their state, and the requests to paid endpoints; return the exit code of a run."""
    from plad_bench.execute import outlook
    from plad_bench.execute.estimate import estimates

    stop: PladBenchError | None = None
    try:
        planned.ready(options["max_cost"], download=False)
    except PladBenchError as error:
        stop = error
        click.echo(f"run would stop: {stop}", err=True)
    remarks = planned.remarks()
    if not options["as_json"]:
        for line in (*effective.lines(planned.settings), *(planned.tuner.searched() if planned.tuner else ())):
            click.echo(line, err=True)
    for remark in remarks:
        click.echo(f"Note: {remark}", err=True)
    cells = _cells(planned)
    stages = _stages(planned)
    waiting = planned.store.missing(key for keys in stages.values() for key in keys)
    try:
        planned.read_data(download=False)
        asked = estimates(planned.expected(), planned.store, planned.data)
    except MissingError:  # without data, requests cannot be counted; the error is printed above
        asked = []
    except StageError as error:
        asked = []
        if stop is None:
            stop = error
            click.echo(f"run would stop: {stop}", err=True)
    data = planned.data
    expected = planned.outlook(options, gpus)
    given = _given(planned, data) if options.get("show_prompt") else []
    if options["as_json"]:
        listed = [{"stage": name, "key": k, "cached": k not in waiting} for name, keys in stages.items() for k in keys]
        requests = [asdict(e) for e in asked]
        said = {"stop": str(stop) if stop else "", "remarks": remarks}
        counted = {task: of.counts for task, of in data.items()}
        recorded = {whose: of_teacher.counts for whose, of_teacher in planned.responses.items()}
        shown = {"prompts": given} if options.get("show_prompt") else {}
        echo_json(
            {
                "cells": cells,
                "settings": [asdict(of_task) for of_task in planned.settings],
                "data": counted,
                "responses": recorded,
                "stages": listed,
                "outlook": asdict(expected),
                "requests": requests,
                **shown,
                **said,
            }
        )
    else:
        _print(cells, list(data_lines(data, planned.responses)), stages, waiting, asked)
        for place, line in enumerate(outlook.lines(expected)):
            click.echo(line if place else f"\n{line}")
        for one in given:
            click.echo(f"\n{_prompt(one)}")
    return stop.exit_code if stop else ExitCode.OK


def _cells(planned: Planned) -> list[dict[str, str]]:
    from plad_bench.execute import recording

    rows = []
    cached = {cell.id for cell in planned.cached}
    for cell in planned.cells:
        state, reason = "skipped" if cell.skip else "to run", cell.skip
        if cell.id in cached and (record := recording.recorded(planned.directory / "cells", cell)):
            stale = recording.stale(record)
            state = "cached (stale)" if stale else "cached"
            reason = f"made by other code: {', '.join(stale)}" if stale else ""
        rows.append({"cell": cell.id, "state": state, "reason": reason})
    return rows


def _given(planned: Planned, data: Mapping[str, Prepared]) -> list[dict[str, Any]]:
    """The formatted prompt of each model of the cells."""
    from plad_bench.execute.stages import prompts

    def find(key: str) -> Path | None:
        artifact = planned.store.find(key)
        return artifact.path if artifact else None

    firsts = {task: next((p.prompt for p in of.prompts if p.split == "train"), "") for task, of in data.items()}
    return prompts.given(planned.cells, find, firsts)


def _prompt(given: Mapping[str, Any]) -> str:
    """The formatted prompt of a model, as text."""
    lines = [f"What {given['role']} {given['model']} is given for a prompt of {given['task']}:"]
    if "text" not in given:
        return f"{lines[0]} {given['reason']}"
    lines += [f"  | {line}" for line in given["text"].split("\n")]
    if "ids" in given:
        lines += [f"  token ids: {' '.join(map(str, given['ids']))}", f"  a response ends with {given['end']}"]
    names = {"template": "template", "date": "date in the template", "thinking": "thinking"}
    lines += [f"  {words}: {given[name]}" for name, words in names.items() if name in given]
    return "\n".join(lines)


def _stages(planned: Planned) -> dict[str, list[str]]:
    """The keys of the stages of the cells to run, by name, inputs first."""
    keys: dict[str, list[str]] = {}
    for key, stage in {stage.key: stage for cell in planned.todo for stage in cell.stages}.items():
        keys.setdefault(stage.name, []).append(key)
    order = [*STAGES]
    return {name: keys[name] for name in sorted(keys, key=lambda name: order.index(rounds.kind(name)))}


def _print(
    cells: Sequence[Mapping[str, str]],
    data: Sequence[str],
    stages: Mapping[str, Sequence[str]],
    waiting: set[str],
    asked: Sequence[RequestEstimate],
) -> None:
    for line in _table(("cell", "state", "reason"), [tuple(row.values()) for row in cells]):
        click.echo(line)
    if data:
        click.echo()
    for line in data:
        click.echo(line)
    rows = []
    for name, keys in stages.items():
        missing = len(waiting.intersection(keys))
        shown, what = name.replace("signals", "teacher-logprobs"), STAGES[rounds.kind(name)]
        rows.append((shown, str(missing), str(len(keys) - missing), what))
    if stages:
        click.echo()
    for line in _table(("stage", "to run", "cached", "what it does"), rows) if stages else ():
        click.echo(line)
    if asked:
        click.echo()
    for line in _requests(asked) if asked else ():
        click.echo(line)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Lines of a table, which never wrap, so that the name of a cell can be copied."""
    from plad_bench.records.text import clean

    shown = [[clean(text, 1000) for text in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(head, *shown, strict=True)]
    for place, row in enumerate((head, *shown)):
        line = "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        yield line if place else click.style(line, bold=True)


def data_lines(data: Mapping[str, Prepared], responses: Mapping[str, RequestContext]) -> Iterator[str]:
    """Counts of prompts and rows of each task and of recorded responses, and which rows were merged or left out."""
    from plad_bench.contract import rows
    from plad_bench.records.text import printable
    from plad_bench.render import data_facts

    for task, of in data.items():
        yield f"{task}: {data_facts.sizes(of.counts)} prompts"
        for line in (*rows.lines(of.counts, of.notes), *data_facts.facts(of.counts)):
            yield f"  {printable(line)}"
    for asked, of_teacher in responses.items():
        yield f"{asked}:"
        for line in rows.lines(of_teacher.counts, of_teacher.notes):
            yield f"  {printable(line)}"
        if without := of_teacher.counts.get("without_response"):
            yield f"  {without:.0f} prompt{'s have' if without > 1 else ' has'} no response (missing=skip)"


def _requests(asked: Sequence[RequestEstimate]) -> Iterator[str]:
    head = (
        "endpoint of", "stage", "requests", "answered before", "input tokens, about", "output tokens, at most",
        "cost, at most",
    )  # fmt: skip
    rows = []
    for e in asked:
        counts = (e.requests, e.answered, e.tokens_in, e.tokens_out)
        rows.append((e.asked, e.stage, *("?" if n is None else str(n) for n in counts), _money(e)))
    paid = [e.money for e in asked if e.money is not None]
    if len(paid) > 1:
        rows.append((*[""] * 5, "total", in_full(float(f"{sum(paid):.4g}"))))
    return _table(head, rows)


def _money(estimate: RequestEstimate) -> str:
    if not estimate.priced:
        return "no price given"
    return "?" if estimate.money is None else in_full(float(f"{estimate.money:.4g}"))


def in_full(amount: float) -> str:
    """An amount with six digits and without an exponent."""
    return f"{Decimal(f'{amount:.6g}'):f}"
