"""`run` and `plan`: from options to a plan, and from a plan to records and a board."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.options import boards_option, config_option, echo_json, json_option, open_store, store_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode, MissingError, NothingSelectedError, UsageError
from plad_bench.plan.names import DEMO_BOARD, TRIAL_BOARD

if TYPE_CHECKING:
    from rich.table import Table

    from plad_bench.contract.records import Protocol
    from plad_bench.execute.estimate import Estimate
    from plad_bench.execute.store import Store
    from plad_bench.plan.boardfile import BoardFile
    from plad_bench.plan.matrix import Cell

DEMO_METHODS = "sft,seqkd,kd,plad"


def matrix_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what to compare, and how; `run` and `plan` take the same."""
    options = [
        click.option("--methods", default=DEMO_METHODS, show_default=True, help="Selectors of methods, all, or none."),
        click.option("--student", default="", help="Selectors of students.  [default: the task's]"),
        click.option("--teacher", default="", help="Selectors of teachers.  [default: the student's]"),
        click.option("--task", default="demo", show_default=True, help="Selectors of tasks."),
        click.option("--pairs", default="", help="Selectors of pair builders.  [default: teacher-over-student]"),
        click.option(
            "--metrics", default="", help="Selectors of metrics; the first ranks a new board.  [default: the task's]"
        ),
        click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: the board's, else 1]"),
        click.option("--steps", type=click.IntRange(1), help="Optimiser steps of every method.  [default: the task's]"),
        click.option("--lr", type=click.FloatRange(0, min_open=True), help="Peak learning rate all methods share."),
        click.option("--batch", type=click.IntRange(1), help="Prompts per optimiser step."),
        click.option("--warmup-steps", type=click.IntRange(0), help="Steps of the common warm start."),
        click.option("--warmup-lr", type=click.FloatRange(0, min_open=True), help="Its peak learning rate."),
        click.option("--max-new-tokens", type=click.IntRange(1), help="Length limit of every generated response."),
        click.option(
            "--teach-temperature", type=click.FloatRange(0), help="Teacher's sampling temperature; 0 is greedy."
        ),
        click.option("--sample-temperature", type=click.FloatRange(0), help="Frozen student's sampling temperature."),
        click.option("--top-k", type=click.IntRange(1), help="Top-k of both, where they sample."),
        click.option("--samples", type=click.IntRange(1), help="Responses to a training prompt of what samples."),
        click.option("--split", type=click.Choice(["test", "validation"]), help="Split to evaluate on."),
        click.option(
            "--precision",
            type=click.Choice(["float32", "bf16"]),
            help="Arithmetic of models.  [default: the board's, else bf16 on GPUs and float32 on CPUs]",
        ),
        click.option(
            "--compile",
            is_flag=True,
            default=None,
            help="Compile token losses: for long runs with large vocabularies; needs a C++ compiler on CPUs.",
        ),
        click.option("--lora", type=click.IntRange(1), help="Train students through adapters of this rank."),
        click.option(
            "--signals",
            metavar="live|dense|top-K",
            help="Teacher distributions over fixed text: computed at every step; once, whole; or once, the K likeliest "
            "tokens and the tail.  [default: live]",
        ),
        click.option(
            "--backend",
            type=click.Choice(["auto", "transformers", "vllm"]),
            help="What generates text outside of training; auto is vllm where that can run.  "
            "[default: the board's, else transformers]",
        ),
        click.option(
            "--limit", type=click.IntRange(1), help="Use this many prompts of each split; records become trials."
        ),
        click.option("--board", help=f"Name of the board.  [default: {DEMO_BOARD}; {TRIAL_BOARD} with --limit]"),
        click.option("--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads per CPU slot."),
        click.option(
            "--rerun",
            type=click.Choice(["missing", "failed", "stale", "all"]),
            default="missing",
            show_default=True,
            help="Cells to run: without a result; that failed; also made by other code; every one.",
        ),
        boards_option,
        store_option,
        config_option,
    ]
    for option in reversed(options):
        function = option(function)
    return function


def execution_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say where and how patiently; `plan` takes them too, so that a command or a file serves both."""
    options = [
        click.option("--launcher", default="local", show_default=True, help="Selector of the launcher."),
        click.option(
            "--gpus", default="", help="GPU indices, such as 0,1; none to stay on the CPU.  [default: all there are]"
        ),
        click.option("--workers", type=click.IntRange(1), help="Stages at a time on CPUs.  [default: cores / threads]"),
        click.option(
            "--retries",
            type=click.IntRange(0),
            default=1,
            show_default=True,
            help="Retries of a stage that was killed.",
        ),
        click.option(
            "--max-failures", type=click.IntRange(0), default=0, help="Start nothing new after this many; 0 goes on."
        ),
        click.option(
            "--max-cost",
            type=click.FloatRange(0, min_open=True),
            help="Stop before teachers, and judges with a price, cost more than this, in the currency of their prices.",
        ),
        click.option(
            "--timeout", type=click.FloatRange(0), default=0, help="Stop a stage after this many seconds; 0 never."
        ),
    ]
    for option in reversed(options):
        function = option(function)
    return function


@dataclass
class Planned:
    """A run that is ready to go."""

    cells: list[Cell]
    todo: list[Cell]
    cached: list[Cell]
    board: BoardFile
    directory: Path
    store: Store

    def skip_misfits(self) -> None:
        """Skip what is to run with models that do not fit, told from those of their files that are here by now."""
        from plad_bench.plan.matrix import reconsidered

        def find(key: str) -> Path | None:
            artifact = self.store.find(key)
            return artifact.path if artifact else None

        again = {cell.id: reconsidered(cell, find) for cell in self.todo}
        self.cells = [again.get(cell.id, cell) for cell in self.cells]
        self.todo = [cell for cell in again.values() if not cell.skip]

    def made(self, key: str) -> bool:
        """Whether the result of a stage is in the store."""
        return self.store.find(key) is not None

    @property
    def skipped(self) -> list[Cell]:
        """Cells that cannot run, each with its reason."""
        return [cell for cell in self.cells if cell.skip]


_PROTOCOL = (
    "steps",
    "lr",
    "batch",
    "warmup_steps",
    "warmup_lr",
    "max_new_tokens",
    "teach_temperature",
    "sample_temperature",
    "top_k",
    "samples",
    "split",
    "precision",
    "backend",
    "signals",
    "lora",
    "compile",
    "limit",
)


def prepare(state: State, options: Mapping[str, Any], gpus: tuple[int, ...]) -> Planned:
    """Resolve everything, and find out what there is to do, without doing any of it."""
    from plad_bench.execute import recording
    from plad_bench.plan import backends, boardfile, matrix, spec

    registry = state.registry
    # A trial's conditions must not become those of the board that a run with no options goes to.
    name = options["board"] or (TRIAL_BOARD if options["limit"] else DEMO_BOARD)
    if os.sep in name or name in {".", ".."}:
        raise UsageError(f"{name!r} is not a name for a board", "Use one word; --boards-dir says where it lies.")
    directory = options["boards_dir"].expanduser() / name
    # Nor do a trial's conditions bind the next one, unless its board was named.
    unbound = options["limit"] and not options["board"]
    board = boardfile.BoardFile() if unbound else boardfile.read(directory / "board.toml")
    explicit = {name: options[name] for name in _PROTOCOL}
    if explicit["backend"] == "auto":  # a board that exists has chosen
        explicit["backend"] = None if board.protocol else backends.best(gpu=bool(gpus))
    tasks = spec.choose(registry, "task", options["task"])
    run = spec.build(
        registry,
        task=options["task"],
        methods=options["methods"],
        student=options["student"],
        teacher=options["teacher"],
        pairs=options["pairs"],
        metrics=options["metrics"] or ",".join(board.metrics),
        seeds=options["seeds"] or board.seeds_asked or 1,
        threads=options["threads"],
        # What neither the command nor the board says, the device does: bf16 on a GPU, the task's float32 on a CPU.
        overrides={
            t.label: ({"precision": "bf16"} if gpus else {}) | boardfile.overrides(board, t.component.name, explicit)
            for t in tasks
        },
    )
    cells = matrix.cells(run, registry)
    protocols: dict[str, Protocol] = {t.component.name: run.protocols[t.label] for t in tasks}
    metrics = [m.label for chosen in run.metrics.values() for m in chosen]
    shipped = [p for t in tasks if (p := t.component.artifacts()) is not None]
    planned = Planned(
        cells=cells,
        todo=[],
        cached=[],
        board=boardfile.merged(board, name, protocols, metrics, run.seeds),
        directory=directory,
        store=open_store(options["store"], shipped),
    )
    for cell in cells:
        record = recording.recorded(directory / "cells", cell)
        if cell.skip:
            continue
        again = options["rerun"] == "all" or (options["rerun"] == "stale" and record and recording.stale(record))
        if record is not None and not again:
            planned.cached.append(cell)
        elif options["rerun"] != "failed" or recording.failed(directory / "cells", cell):
            planned.todo.append(cell)
    return planned


@click.command(short_help="Plan, execute, record and render a comparison.")
@matrix_options
@execution_options
@click.option("--dry-run", is_flag=True, help="Show the plan and stop.")
@json_option
@click.pass_context
def run(ctx: click.Context, /, **options: Any) -> int:
    """Run the matrix methods x students x teachers x tasks x seeds, write its records, and render the board.

    Finished work is never repeated: the same command resumes an interrupted run. With no options, four methods are
    compared on the embedded task `demo`, on the CPU, offline, to the board `quickstart`.
    """
    state = ctx.ensure_object(State)
    gpus = _gpus(options)
    planned = prepare(state, options, gpus)
    if options["dry_run"]:
        show_plan(planned, as_json=options["as_json"])
        return ExitCode.OK
    return _execute(state, planned, options, gpus)


@click.command(short_help="Show what run would do.")
@matrix_options
@execution_options
@json_option
@click.pass_context
def plan(ctx: click.Context, /, **options: Any) -> None:
    """Show what `run` with the same options would do: cells, stages, what is cached and what is skipped, and why."""
    show_plan(prepare(ctx.ensure_object(State), options, _gpus(options)), as_json=options["as_json"])


def _execute(state: State, planned: Planned, options: Mapping[str, Any], gpus: tuple[int, ...]) -> int:
    from plad_bench.cli.progress import watcher
    from plad_bench.contract.records import LaunchOptions
    from plad_bench.execute.engine import Options
    from plad_bench.execute.runs import Run
    from plad_bench.plan import boardfile, requirements, spec

    if not planned.cells:
        raise NothingSelectedError("the selection matches nothing", "See `plad-bench plugins`.")
    requirements.check(planned.todo, planned.made)
    planned.skip_misfits()
    if options["max_cost"]:
        _refuse_unpriced(planned)
    run_state = Run(
        store=planned.store,
        board=planned.directory,
        arguments=sys.argv[1:],
        plugins=state.registry.files,
        registry=state.registry,
    )
    boardfile.write(planned.directory / "board.toml", planned.board)
    if planned.todo or any(not run_state.has_skip(cell) for cell in planned.skipped):
        planned.store.prepare()
    (launcher,) = spec.choose(state.registry, "launcher", options["launcher"])
    workers = options["workers"] or max(1, (os.cpu_count() or 1) // options["threads"])
    launch = LaunchOptions(workers=workers, threads=options["threads"], gpus=gpus)
    _announce(planned)
    counts = run_state.execute(
        planned.cells,
        planned.todo,
        open_session=lambda: launcher.component.open(launcher.params, launch),
        threads=options["threads"],
        options=Options(options["retries"], options["max_failures"], options["timeout"], options["max_cost"] or 0.0),
        watcher=watcher(len(planned.todo)),
        afresh=options["rerun"] in {"stale", "all"},
    )
    return _finish(planned, run_state, counts, options)


def _announce(planned: Planned) -> None:
    """Say on stderr what will run and what cannot, before the first stage takes its time."""
    if planned.todo:
        click.echo(
            f"{len(planned.todo)} to run, {len(planned.cached)} cached, {len(planned.skipped)} skipped", err=True
        )
    for cell in planned.skipped:
        if cell.seed == 0:
            click.echo(f"skipped: {cell.row}: {cell.skip}", err=True)


def _finish(planned: Planned, run_state: Any, counts: Mapping[str, int], options: Mapping[str, Any]) -> int:
    from plad_bench.cli.boards import render, summary

    page = planned.directory / "README.md"
    if counts["written"] or not page.is_file():
        render(planned.directory, run_state.registry)
    code = ExitCode.OK
    if run_state.failures:
        code = ExitCode.MISSING if all(f.missing for f in run_state.failures.values()) else ExitCode.FAILED
    elif run_state.unpaid:
        code = ExitCode.BUDGET
    if options["as_json"]:
        money = {"spent": run_state.spent, "unpaid": len(run_state.unpaid)}
        echo_json({**counts, **money, "board": planned.board.title, "page": str(page), "exit_code": int(code)})
    else:
        summary(planned.directory)
    tell = f"{counts['done']} done, {counts['cached']} cached, {counts['skipped']} skipped, {counts['failed']} failed"
    click.echo(f"\n{tell}. Board: {page}", err=True)
    click.echo(_signals(planned) + _bad_rows(planned), err=True, nl=False)
    shown: set[str] = set()
    for cell, failure in run_state.failures.items():
        if failure.message not in shown:
            shown.add(failure.message)
            click.echo(f"failed: {cell}\n  {failure.stage}: {failure.message}\n  log: {failure.log}", err=True)
    if run_state.spent:
        click.echo(f"spent: {_money(run_state.spent)}", err=True)
    if run_state.unpaid:
        click.echo(
            f"{len(run_state.unpaid)} cells wait for more money: the next question could have gone beyond --max-cost "
            f"{options['max_cost']:g}. What was bought is kept; --max-cost counts anew in every run.",
            err=True,
        )
    if run_state.failures or run_state.unpaid:
        click.echo(f"To resume: {shlex.join(['plad-bench', *sys.argv[1:]])}", err=True)
    return code


def _signals(planned: Planned) -> str:
    """What cached teacher distributions cost and saved, on a line; empty where no cell read any."""
    from plad_bench.execute import recording

    records = (recording.recorded(planned.directory / "cells", cell) for cell in planned.cells)
    costs = [record.cost for record in records if record and record.cost.get("signals_tokens")]
    if not costs:
        return ""
    rate = costs[0]["signals_device_seconds"] / costs[0]["signals_tokens"]
    once = {(cost["signals_bytes"], cost["signals_device_seconds"]) for cost in costs}
    read = sum(cost.get("teacher_tokens_cached", 0) for cost in costs)
    return (
        f"Signals: {sum(size for size, _ in once) / 1e6:,.1f} MB and {sum(s for _, s in once):,.1f} s of the teacher, "
        f"once. {len(costs)} trainings read {read:,.0f} tokens of them: about {read * rate:,.0f} s of it saved.\n"
    )


def _bad_rows(planned: Planned) -> str:
    """How many rows of the data are no examples, a line for each task that has such, and the first of them."""
    from plad_bench.execute import recording
    from plad_bench.report.text import printable

    lines: dict[str, str] = {}
    for cell in planned.cells:
        record = recording.recorded(planned.directory / "cells", cell)
        if record and (count := record.counts.get("data.bad_rows")):
            first = record.provenance.get("notes", {}).get("data", {}).get("bad_rows", [])[:1]
            told = [
                f"{count:.0f} row{'s' if count > 1 else ''} of {record.task.selector} left out",
                *map(printable, first),
            ]
            lines[record.task.selector] = "; the first: ".join(told) + "\n"
    return "".join(lines.values())


def _money(amount: float) -> str:
    """An amount to six digits, never with an exponent."""
    return f"{Decimal(f'{amount:.6g}'):f}"


def _refuse_unpriced(planned: Planned) -> None:
    from plad_bench.execute.estimate import estimates

    for estimate in estimates(planned.todo, planned.store):
        if estimate.paid and estimate.money is None:
            raise UsageError(
                f"--max-cost cannot be kept: what {estimate.teacher} costs is not known",
                "Give price_in= and price_out= per million tokens; 0 where asking is free.",
            )


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
        money = "no price given" if e.money is None else _money(float(f"{e.money:.4g}"))
        table.add_row(
            escape(e.teacher),
            e.stage,
            *map(str, (e.questions, e.answered, e.tokens_in, e.tokens_out)),
            money if e.paid else "-",
        )
    return table


def _gpus(options: Mapping[str, Any]) -> tuple[int, ...]:
    """The GPUs to use: those named, none, or all that the driver shows."""
    text = options["gpus"].strip()
    if text == "none":
        return ()
    # As CUDA counts them: from 0, whatever the numbers of the devices that a container was given.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    several = Path("/dev").glob("nvidia[0-9]*") if visible is None else filter(None, visible.split(","))
    present = range(0 if visible == "-1" else len(list(several)))
    if not text:
        return tuple(present)
    try:
        wanted = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"--gpus {text!r}: not a list of indices", "Write 0 or 0,1, or none.") from None
    if absent := set(wanted) - set(present):
        raise MissingError(f"no GPU {', '.join(map(str, sorted(absent)))} on this machine", "See --gpus in --help.")
    return wanted
