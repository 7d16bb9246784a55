"""Prepares a run: resolves all options and determines the work to do, without doing any of it."""

from __future__ import annotations

import contextlib
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import gc_pause
from plad_bench.contract.errors import MissingError, NothingSelectedError, PladBenchError, UsageError
from plad_bench.contract.names import BOARD_NAME

if TYPE_CHECKING:
    from plad_bench.contract.protocol import Protocol
    from plad_bench.contract.registry import Registry
    from plad_bench.contract.requests import RequestContext
    from plad_bench.execute.outlook import Outlook, Slots
    from plad_bench.execute.stages.data import Prepared
    from plad_bench.execute.store import Store
    from plad_bench.execute.tuning import Tuner
    from plad_bench.plan.boardfile import Contribution
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen
    from plad_bench.running.effective import TaskSettings

SLOW = 1e-4
"""Learning rate below which random weights hardly change in thousands of steps."""


@dataclass
class Planned:
    """A run that is ready to start."""

    cells: list[Cell]
    todo: list[Cell]
    cached: list[Cell]
    title: str
    """Title of the board."""
    contribution: Contribution
    """The run's additions to the board's file."""
    directory: Path
    store: Store
    commands: Mapping[str, Sequence[str]]
    """By task label: the arguments that reproduce its cells elsewhere."""
    data: dict[str, Prepared] = field(default_factory=dict)
    """By task label, for tasks with cells to run: the data that `read_data` found."""
    force: bool = False
    """Whether to allow settings that are refused by default."""
    settings: tuple[TaskSettings, ...] = ()
    """The effective settings of each task and its teachers, with their origins."""
    responses: dict[str, RequestContext] = field(default_factory=dict)
    """By teacher label and split: the account of the rows of recorded responses."""
    rerun: str = "missing"
    """Which cells run although there is a record of them."""
    gpu: bool = True
    """Whether stages run on a GPU."""
    unread: bool = False
    """Whether settings would follow from data that is not here."""
    tuner: Tuner | None = None
    """What chooses the methods' settings, where they are tuned; until all trials are done, cells have the defaults."""

    def sort(self) -> None:
        """Find out which cells are to run, and which are done."""
        from plad_bench.execute import recording

        self.todo, self.cached, place = [], [], self.directory / "cells"
        for cell in self.cells:
            if cell.skip:
                continue
            record = recording.recorded(place, cell)
            again = self.rerun == "all" or (self.rerun == "stale" and record and recording.stale(record))
            if record is not None and not again:
                self.cached.append(cell)
            elif self.rerun != "failed" or recording.failure(place, cell):
                self.todo.append(cell)

    def tune(self, execute: Callable[[int, Sequence[Cell]], None] | None = None) -> bool:
        """Do the trials that are missing, and take the best settings; whether all of them are done. See `Tuner.run`."""
        if self.tuner is None:
            return True
        self.tuner.keep(self.cells)
        if not self.tuner.run(execute):
            return False
        self.cells = self.tuner.winners(self.cells)
        self.sort()
        return True

    @gc_pause.paused()
    def ready(self, max_cost: float | None, *, download: bool) -> None:
        """Check everything that could stop the run before its first stage, and skip cells that cannot run.

        Args:
            max_cost: limit on the cost of requests; None for no limit.
            download: whether to download data sets from the hub to check them as well.

        Raises:
            MissingError: if a data set, model, teacher or metric is unavailable.
            NothingSelectedError: if none of the methods can run.
            StageError: if data is unusable, or recorded responses are incomplete.
            UsageError: if `max_cost` is given and a price is unknown; or if a setting is refused by default
                (`plan/safeguards.py`) and `force` is not set.
        """
        from plad_bench.execute.estimate import estimates
        from plad_bench.plan import requirements, safeguards

        if not self.force:
            safeguards.check(self.todo)
        try:
            requirements.check(self.todo, self.made, gpu=self.gpu)
        finally:
            self.skip_misfits()
        methods = [cell for cell in self.cells if cell.method is not None]
        if methods and all(cell.skip for cell in methods):
            reasons = dict.fromkeys(f"{cell.row}: {cell.skip}" for cell in methods)
            raise NothingSelectedError("none of the methods can run", "\n  ".join(reasons))
        self.read_data(download=download)
        self._look_at_responses()
        for estimate in estimates(self.expected(), self.store, self.data) if max_cost else ():
            if not estimate.priced:
                raise UsageError(
                    f"--max-cost needs the price of every endpoint; {estimate.asked} has none",
                    "Give price_in= and price_out= per million tokens; 0 if requests are free.",
                )

    def read_data(self, *, download: bool) -> None:
        """Read the data of each task with cells to run, or the summary of its completed data stage.

        Raises:
            MissingError: if the data is unavailable.
            StageError: if the data is unusable.
        """
        for task in {cell.task.label: cell.task for cell in self.todo}.values():
            if task.label not in self.data and (found := _read(task, self.store, download=download)) is not None:
                self.data[task.label] = found

    def _look_at_responses(self) -> None:
        """Check that teachers with recorded responses have all that are needed.

        If only the teacher's own row needs the missing ones, that row is skipped. Errors as `ready`.
        """
        from plad_bench.contract.errors import StageError
        from plad_bench.execute.estimate import Prompts
        from plad_bench.execute.stages import ask

        prompts = Prompts(self.store, self.data)
        known = [cell for cell in self.todo if cell.teacher.component.immediate and cell.task.label in self.data]
        asked = {
            s.key: (cell, s) for cell in known for s in cell.stages if s.operation == "ask" and not self.made(s.key)
        }
        for key, (of, stage) in asked.items():
            try:
                asked_for = f"{of.teacher.label}, for the {stage.spec['split']} prompts of {of.task.label}"
                self.responses[asked_for] = ask.check(of.teacher, stage.spec, prompts.of(of, stage))
            except StageError as error:
                needed_by = [cell for cell in self.todo if any(s.key == key for s in cell.stages)]
                others = [cell for cell in self.todo if cell.method is not None]
                if not others or any(cell.row != "teacher" for cell in needed_by):
                    raise
                reason = error.message.partition(": ")[0]
                self._replace({cell.id: replace(cell, skip=reason) for cell in needed_by})

    def expected(self) -> list[Cell]:
        """The cells to run, after cells in place of the trials to come, for estimates."""
        return [*(self.tuner.expected() if self.tuner else ()), *self.todo]

    def outlook(self, options: Mapping[str, Any], gpus: tuple[int, ...]) -> Outlook:
        """What the cells that are to run will take of this machine."""
        from plad_bench.execute import outlook
        from plad_bench.plan.resources import GPUS

        if options.get("on"):
            device = GPUS[options["on"]]
        else:
            device = outlook.gpu(gpus[0]) if gpus else outlook.cpu(options["threads"])
        return outlook.outlook(self.expected(), self.store, self.data, device, slots_of(options, gpus))

    def skip_misfits(self) -> None:
        """Skip cells whose models do not fit together or whose inputs use up their budget, judged by what is known."""
        from plad_bench.plan.compatibility import over_budget
        from plad_bench.plan.matrix import reconsidered

        @functools.cache
        def find(key: str) -> Path | None:
            artifact = self.store.find(key)
            return artifact.path if artifact else None

        def facts(cell: Cell) -> dict[str, Any]:
            keys = {key for of in cell.checkpoint.job.get("before", {}).values() for key, _ in of}
            found = [artifact for key in keys if (artifact := self.store.find(key))]
            return {artifact.key: artifact.facts[artifact.key] for artifact in found}

        again = reconsidered(self.todo, find)
        self._replace({cell.id: cell.but(skip=cell.skip or over_budget(cell, facts(cell))) for cell in again})

    def _replace(self, again: Mapping[str, Cell]) -> None:
        """Replace cells by id, and remove skipped ones from the cells to run."""
        self.cells = [again.get(cell.id, cell) for cell in self.cells]
        self.todo = [cell for cell in (again.get(cell.id, cell) for cell in self.todo) if not cell.skip]

    def made(self, key: str) -> bool:
        """Whether the artifact of a stage is in the store."""
        return self.store.find(key) is not None

    def remarks(self) -> list[str]:
        """Warnings, one line each: learning rates too low for random weights, and non-default numbers of threads."""
        from plad_bench.contract.models import ScratchModel

        found: dict[str, None] = {}
        for cell in self.todo:
            p = cell.protocol
            rates = {"--sft-lr": p.sft_lr if p.sft_steps else SLOW, "--lr": p.lr}
            slow = [f"{option} {rate:g}" for option, rate in rates.items() if rate < SLOW]
            if slow and isinstance(cell.student.component.model(cell.student.params), ScratchModel):
                found[
                    f"{cell.student.label} on {cell.task.label} begins from random weights: {' and '.join(slow)} "
                    "teaches it next to nothing (the demo takes --sft-lr 3e-3 --lr 1e-3)."
                ] = None
        found |= dict.fromkeys(self._rollouts())
        for threads in {cell.plan.threads for cell in self.todo} - {1}:
            found[f"results of other numbers of threads than {threads} round otherwise, and are not reused."] = None
        if self.tuner is not None and self.tuner.pending:
            found[f"{self.tuner.pending} trials come first, each a training and its evaluation."] = None
        return list(found)

    def _rollouts(self) -> Iterator[str]:
        """What samples on-policy text, if vLLM is asked to."""
        from plad_bench.contract.memory_policy import ENGINE_SHARE

        asked = [cell for cell in self.todo if cell.method is not None and cell.protocol.rollouts == "vllm"]
        samples = {cell.row: "rollouts" in spec for cell in asked if "max_new_tokens" in (spec := cell.checkpoint.spec)}
        by_vllm = ", ".join(row for row, engine in samples.items() if engine)
        share = f", which takes {ENGINE_SHARE:.0%} of its GPU's memory" if self.gpu else ""
        if by_vllm:
            yield f"on-policy text of {by_vllm} is sampled by a vLLM engine beside each training{share}."
        if others := ", ".join(row for row, engine in samples.items() if not engine):
            yield f"on-policy text of {others} is sampled by transformers: the teacher takes part."
        if asked and not by_vllm:
            yield "--rollouts vllm changes nothing: no method to run samples on-policy text from the student alone."

    @property
    def skipped(self) -> list[Cell]:
        """The cells that cannot run, each with its reason."""
        return [cell for cell in self.cells if cell.skip]


@gc_pause.paused()
def prepare(
    registry: Registry,
    options: Mapping[str, Any],
    gpus: tuple[int, ...],
    data: Mapping[str, Prepared] | None = None,
) -> Planned:
    """Resolve all options and determine the work to do, without doing any of it.

    `data` is what is known of tasks, by label; that of others is read where it is here, and their settings follow from
    it.
    """
    from plad_bench.contract import hub, training_budget
    from plad_bench.contract.protocol import settings, usual
    from plad_bench.execute import tuning
    from plad_bench.execute.store import Store
    from plad_bench.plan import backends, boardfile, defaults, matrix, spec
    from plad_bench.plan.chosen import choose
    from plad_bench.records import migration
    from plad_bench.running import effective, reproduction

    _check_threads(options)
    if options["shard"] and options["ranks"] == 1:
        raise UsageError("--shard divides a model among ranks, and --ranks is 1", "Add --ranks, such as --ranks 4.")
    named_students = choose(registry, "student", options["student"]) if options["student"] else ()
    task = options["task"] or defaults.task(named_students)
    tasks = choose(registry, "task", task)
    students = named_students or [s for t in tasks for s in choose(registry, "student", t.component.student)]
    # The settings of a trial must not become those of the default board.
    name = options["board"] or defaults.board(tasks, students, trial=bool(options["limit"]))
    if not BOARD_NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a valid name for a board",
            "Use one word of letters, digits, '_', '-' and '.' that begins with a letter or digit. --boards-dir is for "
            "directories.",
        )
    directory = options["boards_dir"].expanduser() / name
    migration.migrate(directory)
    # Nor do the settings of a trial bind the next one, unless its board was named.
    unbound = options["limit"] and not options["board"]
    board = boardfile.BoardFile() if unbound else boardfile.read(directory / "board.toml")
    hub.pin(board.commits)
    explicit = {name: options[name] for name in settings()}
    training_budget.check(explicit)
    explicit = usual(explicit)
    shipped = [p for t in tasks if (p := t.component.artifacts()) is not None]
    store = Store(options["store"].expanduser().resolve(), shipped)
    read = TrainingPrompts(store, options["limit"], dict(data or {}))
    if explicit["backend"] == "auto":  # an existing board determines the backend
        explicit["backend"] = None if board.protocol else backends.best(gpu=bool(gpus))
    named = options["metrics"] or ",".join(board.metrics) or None
    run = spec.build(
        registry,
        task=task,
        methods=options["methods"],
        controls=options["controls"],
        checkpoints=options["checkpoints"],
        student=options["student"],
        teacher=options["teacher"],
        pairs=options["pairs"],
        metrics=named,
        seeds=options["seeds"] or board.seeds_asked or 1,
        threads=options["threads"],
        training_prompts=read.count,
        # By default the device determines the precision: bf16 on a GPU, the task's float32 on a CPU.
        overrides={
            t.label: ({"precision": "bf16"} if gpus else {}) | boardfile.overrides(board, t.component.name, explicit)
            for t in tasks
        },
        prices=board.prices.model_dump() if board.prices else None,
    )
    if options["shard"] and any(protocol.optimizer == "adamw8bit" for protocol in run.protocols.values()):
        raise UsageError(
            "--shard cannot divide the moments of adamw8bit", "Use --optimizer adamw, or leave --shard out."
        )
    cells = matrix.cells(run, registry)
    _check_ranks(options, run.protocols.values())
    protocols: dict[str, Protocol] = {t.component.name: run.protocols[t.label] for t in tasks}
    metrics = [m.label for chosen in run.metrics.values() for m in chosen]
    planned = Planned(
        cells=cells,
        todo=[],
        cached=[],
        title=board.title or name,
        contribution=boardfile.Contribution(
            name, protocols, metrics, run.seeds, versions=_versions(cells), afresh=bool(unbound)
        ),
        directory=directory,
        store=store,
        force=options["force"],
        rerun=options["rerun"],
        gpu=bool(gpus),
        settings=effective.settings(
            cells,
            run,
            boards={t.label: board.conditions(t.component.name) for t in tasks},
            options=explicit,
            gpu=bool(gpus),
        ),
        commands={t.label: reproduction.arguments(registry, options, run, t, board=name, metrics=named) for t in tasks},
    )
    if any(protocol.tune for protocol in run.protocols.values()):
        again = options["rerun"] == "failed"
        planned.tuner = tuning.Tuner(cells, directory, board.primary, registry, again=again)
    planned.sort()
    planned.data = {c.task.label: read.data[c.task.label] for c in planned.todo if c.task.label in read.data}
    planned.unread = read.unknown
    planned.tune()  # as far as there are records
    return planned


def prepare_run(registry: Registry, options: Mapping[str, Any], gpus: tuple[int, ...]) -> Planned:
    """As `prepare`; where settings follow from data that is not here, it is downloaded. Errors as `Planned.ready`."""
    planned = prepare(registry, options, gpus)
    if not planned.unread:
        return planned
    planned.ready(options["max_cost"], download=True)
    return prepare(registry, options, gpus, planned.data)


@dataclass
class TrainingPrompts:
    """Counts the training prompts of tasks, reading each task at most once."""

    store: Store
    limit: int | None
    data: dict[str, Prepared]
    """By task label."""
    unknown: bool = False
    """Whether a count was asked for that needs data which is not here."""

    def count(self, task: Chosen) -> int | None:
        """The number of training prompts that a run uses; None if the task's data is not here, or unusable."""
        if task.label not in self.data:
            with contextlib.suppress(PladBenchError):  # reported where the run needs the data
                if (found := _read(task, self.store, download=False)) is not None:
                    self.data[task.label] = found
        if task.label not in self.data:
            self.unknown = True
            return self.limit or None
        return min(int(self.data[task.label].counts["train_prompts"]), self.limit or sys.maxsize)


def _read(task: Chosen, store: Store, *, download: bool) -> Prepared | None:
    """The data of a task, or the summary of its completed data stage; None if it would have to be downloaded."""
    from plad_bench.execute.stages.data import Prepared, preview
    from plad_bench.plan.stages import data_of

    if (made := store.find(data_of(task).key)) is not None:
        return Prepared(counts=made.manifest["counts"], notes=made.manifest["notes"])
    return preview(task) if download or task.component.hub(task.params) is None else None


def _versions(cells: Sequence[Cell]) -> dict[str, tuple[str, ...]]:
    """For each task, teacher and student that reads local files: its name on boards -> its versions in this run."""
    from plad_bench.contract.names import unversioned

    found: dict[str, dict[str, None]] = {}
    for chosen in {c.label: c for cell in cells for c in (cell.task, cell.teacher, cell.student)}.values():
        series = unversioned(chosen.label, chosen.params.public())
        if series != chosen.label:
            found.setdefault(series, {})[chosen.label] = None
    return {series: tuple(labels) for series, labels in found.items()}


def _check_threads(options: Mapping[str, Any]) -> None:
    """Refuse more threads per slot than this machine has processors."""
    from plad_bench.contract import machine
    from plad_bench.plan.selectors import parse

    there, asked = machine.processors(), options["threads"]
    if asked > there and [selector.name for selector in parse(options["launcher"])] == ["local"]:
        raise UsageError(
            f"--threads {asked} exceeds the {there} processors of this machine",
            f"Use at most {there}. Results depend on the number of threads: see docs/clusters.md#slots.",
        )


def _check_ranks(options: Mapping[str, Any], protocols: Iterable[Protocol]) -> None:
    """Refuse several ranks where vLLM samples."""
    if options["ranks"] > 1 and any(protocol.rollouts == "vllm" for protocol in protocols):
        raise UsageError(
            f"--rollouts vllm samples for one process per training, and --ranks is {options['ranks']}",
            "Leave --ranks out, or use --rollouts transformers.",
        )


def slots_of(options: Mapping[str, Any], gpus: Sequence[int]) -> Slots:
    """The slots of a run on GPUs, of which one may be given several times, or without any on the processors."""
    from plad_bench.contract.machine import processors
    from plad_bench.execute.outlook import Slots

    count = len(set(gpus)) or options["workers"] or max(1, processors() // options["threads"])
    return Slots(
        count=max(count, options["ranks"], options["teacher_gpus"]),
        sharers=max(Counter(gpus).values(), default=1),
        ranks=options["ranks"],
        shard=options["shard"],
        teacher_gpus=options["teacher_gpus"],
    )


def gpus_of(options: Mapping[str, Any]) -> tuple[int, ...]:
    """Indices of the GPUs to use: the given ones, none, or all visible ones."""
    text = options["gpus"]
    if text == "none":
        return ()
    # Numbered from 0 as CUDA does, whatever device numbers a container has.
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    several = Path("/dev").glob("nvidia[0-9]*") if visible is None else filter(None, visible.split(","))
    present = range(0 if visible == "-1" else len(list(several)))
    if text is None:
        return tuple(present)
    try:
        wanted = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(
            f"--gpus {text!r} is not a list of indices", "Give indices such as 0 or 0,1, or none."
        ) from None
    if absent := set(wanted) - set(present):
        message = f"no GPU {', '.join(map(str, sorted(absent)))} on this machine"
        raise MissingError(message, "Choose other GPUs, or use the CPU with --gpus none.")
    return wanted
