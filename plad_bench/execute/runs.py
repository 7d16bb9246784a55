"""A run: drives the engine over the cells to compute, writes a record as each cell ends, and keeps a state file."""

from __future__ import annotations

import json
import os
import secrets
import shlex
import shutil
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import locks, rounds
from plad_bench.contract.events import Event
from plad_bench.contract.files import unwritable, write_atomically
from plad_bench.contract.launching import LauncherSession
from plad_bench.contract.money import Budget
from plad_bench.execute import lineage, provenance, recording
from plad_bench.execute.accounting import Accounts
from plad_bench.execute.engine import Engine, Failure, Options, Running, Watcher
from plad_bench.execute.store import Artifact, Store
from plad_bench.plan.cell import Cell
from plad_bench.plan.stage import Stage

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry
    from plad_bench.records.schema import Record

STATE = "state.json"
ALIVE = "alive"
"""A file that the driver locks while it runs."""
KEPT_RUNS = 20
"""Directories of finished runs to keep. Spending is counted elsewhere and kept forever."""


@dataclass
class Run:
    """The request and the outcome of a run."""

    store: Store
    board: Path
    arguments: Sequence[str]
    registry: Registry
    plugins: Sequence[Path] = ()
    accounts: Path | None = None
    """Directory of the board whose ledger the run adds to; None for `board`."""
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Task label -> arguments of the reproduction command in its records; without an entry, the run's arguments."""
    failures: dict[str, Failure] = field(default_factory=dict)
    """By cell id."""
    unpaid: dict[str, Failure] = field(default_factory=dict)
    """Id -> cells that were not executed because the budget is spent. They get no record."""
    counts: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("done", "cached", "skipped", "failed", "written"), 0)
    )
    """Cells that the last `execute` found or left in each state, and records it wrote."""
    spent: float = 0.0
    """Money."""

    def has_skip(self, cell: Cell) -> bool:
        """Whether a skipped cell already has its record."""
        return recording.recorded(self.board / "cells", cell) is not None

    def execute(
        self,
        cells: Sequence[Cell],
        todo: Sequence[Cell],
        *,
        open_session: Callable[[], LauncherSession],
        threads: int,
        ranks: int = 1,
        shard: bool = False,
        teacher_gpus: int = 1,
        options: Options,
        watcher: CellWatcher,
        afresh: bool,
        renew: bool = False,
    ) -> dict[str, int]:
        """Execute the run; return the numbers of cells done, cached, skipped and failed, and of records written.

        `afresh` recomputes the stages of these cells alone (training, responses, scores), not stages that cells share;
        `renew` recomputes every stage that other code or packages made.
        """
        counts = {"done": 0, "cached": 0, "skipped": 0, "failed": 0, "written": 0}
        skipped = [cell for cell in cells if cell.skip]
        counts["skipped"] = len(skipped)
        counts["cached"] = len(cells) - len(skipped) - len(todo)
        for cell in skipped:
            if not self.has_skip(cell):
                recording.write_undone(self.board / "cells", cell, None, self._arguments(cell))
                counts["written"] += 1
        if not todo:
            return counts
        self._discard(todo if afresh else ())
        self._discard_stale(todo if renew else ())
        name = f"{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"
        state = StateFile(self.store.runs / name, self.board, self._command(), counts, len(todo))
        self._announce(name, len(todo))
        accounts = Accounts(self.accounts or self.board, name, self.store)
        engine = Engine(
            self.store,
            open_session,
            state.directory,
            threads,
            self.plugins,
            options,
            _Both(state, watcher, self.registry, accounts),
            ranks,
            shard,
            teacher_gpus,
        )
        pending = list(todo)
        goals = {cell.id: recording.needed(self.board / "cells", cell, self.store.find) for cell in todo}

        def settled() -> None:
            for cell in list(pending):
                keys = [stage.key for stage in goals[cell.id]]
                failed = next((engine.failures[k] for k in keys if k in engine.failures), None)
                if failed is not None and failed.budget:
                    self.unpaid[cell.id] = failed
                    pending.remove(cell)
                    continue
                if failed is not None:
                    record = self._write_undone(cell, failed)
                    counts[record.status] += 1
                elif all(key in engine.artifacts for key in keys):
                    record = self._write_done(cell, engine.artifacts, accounts)
                    counts["done"] += 1
                else:
                    continue
                counts["written"] += 1
                pending.remove(cell)
                watcher.cell_finished(cell, record)
                event = Event(
                    kind="cell_finished",
                    name=cell.id,
                    status=record.status,
                    data=record.model_dump(mode="json", by_alias=True),
                )
                self.registry.notify(event)
            state.write()

        with state:
            try:
                with watcher:
                    engine.run(list(goals.values()), settled)
            finally:
                state.finish(complete=not (pending or self.unpaid))
                self.registry.notify(Event(kind="run_finished", name=name, status="finished", data=counts))
                _forget_old(self.store.runs, state.directory)
        self.spent = Budget(engine.spent_file).spent
        return counts

    def _arguments(self, cell: Cell) -> Sequence[str]:
        return self.commands.get(cell.task.label, self.arguments)

    def _write_undone(self, cell: Cell, failed: Failure) -> Record:
        """Write the record of a cell that cannot be computed under its protocol, or of one that failed."""
        if not failed.skipped:
            self.failures[cell.id] = failed
            return recording.write_undone(self.board / "cells", cell, failed, self._arguments(cell))
        cell = replace(cell, skip=failed.message)
        return recording.write_undone(self.board / "cells", cell, None, self._arguments(cell))

    def _write_done(self, cell: Cell, artifacts: dict[str, Artifact], accounts: Accounts) -> Record:
        for stage in cell.scores.values():  # with the stages below them that other runs executed
            accounts.finished(stage, artifacts[stage.key])
        for stage in cell.responses.walk():  # the record also describes stages that were not computed now
            if stage.key not in artifacts and (found := self.store.find(stage.key)):
                artifacts[stage.key] = found
        return recording.write_done(self.board / "cells", cell, artifacts, self._arguments(cell))

    def _announce(self, name: str, cells: int) -> None:
        data = {"cells": cells, "command": provenance.command(self.arguments)}
        self.registry.notify(Event(kind="run_started", name=name, status="started", data=data))

    def _command(self) -> str:
        """The command that continues this run from another shell, with the store but without addresses."""
        given = any(argument == "--store" or argument.startswith("--store=") for argument in self.arguments)
        store = [] if given else ["--store", str(self.store.root)]
        return shlex.join(["plad-bench", *provenance.without_hosts(self.arguments), *store])

    def _discard(self, cells: Sequence[Cell]) -> None:
        """Remove the artifacts that these cells share with no other."""
        for cell in cells:
            self._remove(cell.scores.values())
            if cell.responses.operation != "ask":  # responses from an endpoint are never requested twice
                self._remove([cell.responses, *filter(None, [cell.samples]), *cell.points.values()])
            if cell.method is not None:
                own = (stage for stage in cell.checkpoint.walk() if rounds.number(stage.name))
                self._remove([cell.checkpoint, *own])

    def _discard_stale(self, cells: Sequence[Cell]) -> None:
        """Remove artifacts of other code and their dependents, except those that ship with a task or hold responses."""
        found: dict[str, bool] = {}
        stages = {stage.key: stage for cell in cells for stage in cell.stages}  # inputs precede dependents
        for key, stage in stages.items():
            artifact = self.store.find(key)
            fixed = stage.operation == "ask" or (artifact is not None and artifact.shipped)
            old = artifact is not None and bool(lineage.stale(lineage.of(artifact, self.store.find)))
            found[key] = not fixed and (old or any(found[parent.key] for parent in stage.inputs.values()))
        self._remove(stage for key, stage in stages.items() if found[key])

    def _remove(self, stages: Iterable[Stage]) -> None:
        for stage in stages:
            if (place := self.store.place(stage.key)).is_dir():
                self.store.remove(place)


class CellWatcher(Watcher):
    """A watcher of stages and cells, which is also a context manager for the duration of the run."""

    def cell_finished(self, cell: Cell, record: Any) -> None:
        """A cell's record was written."""

    def __enter__(self) -> CellWatcher:
        return self

    def __exit__(self, *_: object) -> None:
        return None


class StateFile(Watcher):
    """The state file, which `plad-bench status` reads from another shell. A context manager for the run's duration."""

    def __init__(self, directory: Path, board: Path, command: str, counts: dict[str, int], todo: int) -> None:
        self.directory, self.board, self.command, self.counts, self.todo = directory, board, command, counts, todo
        self.began = time.time()
        self.running: Sequence[Running] = ()
        self.waiting = 0
        self.stages = 0
        self.finished = ""
        self._alive = ExitStack()

    def __enter__(self) -> StateFile:
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._alive.enter_context(locks.held(self.directory / ALIVE))
        except OSError as error:
            raise unwritable(self.directory, error) from error
        return self

    def __exit__(self, *_: object) -> None:
        self._alive.close()

    def stage_finished(self, stage: Stage, artifact: Artifact | None, failure: Failure | None) -> None:
        self.stages += 1

    def tick(self, running: Sequence[Running], waiting: Sequence[Stage]) -> None:
        self.running, self.waiting = running, len(waiting)
        self.write()

    def finish(self, *, complete: bool) -> None:
        """Record the end of the run."""
        self.finished, self.running = ("finished" if complete else "interrupted"), ()
        self.write()

    def write(self) -> None:
        """Write the state file."""
        state = {
            "run": self.directory.name,
            "pid": os.getpid(),
            "board": self.board.name,
            "command": self.command,
            "directory": str(Path.cwd()),
            "began": self.began,
            "updated": time.time(),
            "finished": self.finished,
            "cells": {**self.counts, "to_do": self.todo},
            "stages": {"finished": self.stages, "waiting": self.waiting},
            "running": [
                {
                    "stage": r.stage.label,
                    "key": r.stage.key[:12],
                    "seconds": round(time.monotonic() - r.began, 1),
                    **r.progress(),
                }
                for r in self.running
            ],
        }
        write_atomically(self.directory / STATE, json.dumps(state).encode())


class _Both(Watcher):
    """Forwards events to the state file, the watcher, the plugins and the ledger."""

    def __init__(self, state: StateFile, watcher: Watcher, registry: Registry, accounts: Accounts) -> None:
        self.state, self.watcher, self.registry, self.accounts = state, watcher, registry, accounts

    def stage_started(self, running: Running) -> None:
        self.watcher.stage_started(running)

    def stage_finished(self, stage: Stage, artifact: Artifact | None, failure: Failure | None) -> None:
        self.state.stage_finished(stage, artifact, failure)
        self.watcher.stage_finished(stage, artifact, failure)
        status = "failed" if failure else "done"
        data = {"key": stage.key, **({"message": failure.message} if failure else {})}
        self.registry.notify(Event(kind="stage_finished", name=stage.name, status=status, data=data))
        if artifact is not None:
            self.accounts.finished(stage, artifact)
        else:
            self.accounts.failed(stage)
        self.accounts.paid()

    def stage_retried(self, stage: Stage, failure: Failure) -> None:
        self.watcher.stage_retried(stage, failure)
        self.accounts.failed(stage)

    def tick(self, running: Sequence[Running], waiting: Sequence[Stage]) -> None:
        self.state.tick(running, waiting)
        self.watcher.tick(running, waiting)


def states(store: Store) -> list[dict[str, Any]]:
    """The state of every run of a store, newest first; a run without a live driver counts as killed."""
    found = []
    for path in sorted(store.runs.glob(f"*/{STATE}"), reverse=True):
        try:
            state = json.loads(path.read_text())
        except (OSError, ValueError):
            continue
        if not state["finished"] and not locks.is_held(path.with_name(ALIVE)):
            state["finished"] = "killed"
        found.append(state)
    return found


def _forget_old(runs: Path, this: Path) -> None:
    """Remove the directories of the oldest finished runs, except this one's."""
    ended = [path for path in sorted(runs.glob("*/")) if path != this and not locks.is_held(path / ALIVE)]
    for path in ended[: 1 - KEPT_RUNS]:
        shutil.rmtree(path, ignore_errors=True)
