"""Keeps the ledger of a board while a run goes on: what was executed, what failed, and what was paid."""

from __future__ import annotations

import contextlib
import json
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract.files import unwritable
from plad_bench.contract.money import Budget
from plad_bench.execute.store import Artifact, Store
from plad_bench.plan.stage import Stage, digest
from plad_bench.plan.trials import SEED
from plad_bench.records import ledger
from plad_bench.records.ledger import Execution

ATTEMPTS = "attempts"
"""Directory within a stage's partial files, with the costs of attempts that have not finished, a file for each."""


@dataclass
class Attempt:
    """The account of a stage that is running. If it is killed, its file remains, with the costs at the last update."""

    partial: Path
    id: str = field(default_factory=lambda: secrets.token_hex(8))

    def update(self, cost: Mapping[str, float]) -> None:
        """Write the costs so far. An account is no reason to fail a stage, so errors are ignored."""
        file = self.partial / ATTEMPTS / f"{self.id}.json"
        temporary = file.with_suffix(".tmp")
        with contextlib.suppress(OSError):
            file.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_text(json.dumps(ledger.costs(cost)))
            temporary.replace(file)

    def earlier(self) -> dict[str, dict[str, float]]:
        """Id -> costs of the attempts before this one."""
        return {id_: cost for id_, cost in attempts(self.partial).items() if id_ != self.id}


def attempts(partial: Path) -> dict[str, dict[str, float]]:
    """Id -> costs of the attempts to compute a stage that have not finished."""
    found = {}
    for file in sorted((partial / ATTEMPTS).glob("*.json")):
        try:
            found[file.stem] = ledger.costs(json.loads(file.read_text()))
        except (OSError, ValueError, TypeError):
            continue
    return found


class Accounts:
    """The ledger of a board, to which a run adds the executions that it does not have."""

    def __init__(self, board: Path, run: str, store: Store) -> None:
        self.file, self.run, self.store = board / ledger.FOLDER / f"{run}.jsonl", run, store
        self._known = set(ledger.read(board))
        self._shipped: dict[str, set[str]] = {}
        self._paid = 0.0

    def finished(self, stage: Stage, artifact: Artifact) -> None:
        """Add the execution of a stage, and those of the stages that it depends on, as far as they are known."""
        stages = {one.key: one for one in stage.walk()}
        shipped = set().union(*map(self._of_shipped, stages))
        self._add(
            execution
            for key, facts in artifact.facts.items()
            if key in stages
            for execution in _executions(stages[key], facts)
            if execution.id not in shipped
        )

    def failed(self, stage: Stage) -> None:
        """Add the attempts to compute a stage that have not finished."""
        self._add(_attempt(stage, id_, cost) for id_, cost in attempts(self.store.partial(stage.key)).items())

    def paid(self) -> None:
        """Add what the run has paid for requests since the last call."""
        if (amount := Budget(self.store.spent / self.run).spent) > self._paid:
            cost = {"money": round(amount - self._paid, 9)}
            self._add([Execution(f"{self.run}-{len(self._known)}", "", "requests", cost=cost)])
            self._paid = amount

    def _of_shipped(self, key: str) -> set[str]:
        """Ids of the executions behind an artifact that ships with a task, which were not for this board; else none."""
        if key not in self._shipped:
            artifact = self.store.find(key) if self.store.shipped else None
            facts = artifact.facts if artifact and artifact.shipped else {}
            self._shipped[key] = {_id(*item) for item in facts.items()}
        return self._shipped[key]

    def _add(self, executions: Iterable[Execution]) -> None:
        new = {e.id: e for e in executions if e.id not in self._known}
        if not new:
            return
        try:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            with self.file.open("a", encoding="utf-8") as stream:
                stream.write("".join(execution.line() for execution in new.values()))
        except OSError as error:
            raise unwritable(self.file, error) from error
        self._known |= set(new)


def _executions(stage: Stage, facts: Mapping[str, Any]) -> Iterable[Execution]:
    """The executions that the facts of an artifact tell of: its own, and earlier attempts."""
    yield Execution(
        _id(stage.key, facts), stage.key, stage.name, trial=_of_trials(stage), cost=ledger.costs(facts.get("cost", {}))
    )
    for id_, cost in facts.get("attempts", {}).items():
        yield _attempt(stage, id_, cost)


def _attempt(stage: Stage, id_: str, cost: Mapping[str, float]) -> Execution:
    return Execution(id_, stage.key, stage.name, failed=True, trial=_of_trials(stage), cost=cost)


def _id(key: str, facts: Mapping[str, Any]) -> str:
    """The id of the execution that made an artifact: no two take equally long to the last bit."""
    return digest({"key": key, "seconds": facts.get("seconds"), "cost": facts.get("cost")})[:16]


def _of_trials(stage: Stage) -> bool:
    return any(one.spec.get("seed") == SEED for one in stage.walk())
