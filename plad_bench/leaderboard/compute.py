"""The compute of a whole board: the sum over its ledger, and at least what its records say where that is incomplete."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from plad_bench.records.ledger import Execution
from plad_bench.records.schema import Record

_IN_RECORDS = {
    "train_device_seconds": "distill",
    "sft_init_device_seconds": "sft-init",
    "teacher_device_seconds": "teach",
    "signals_device_seconds": "signals",
    "sample_device_seconds": "sample",
}
"""Device-seconds in the cost of a record -> the stage that took them."""


@dataclass(frozen=True)
class Compute:
    """What the stages executed for a board cost. Each execution counts once, however many cells use its result."""

    executions: tuple[Execution, ...] = ()
    complete: bool = True
    """Whether the ledger covers every record; otherwise evaluations, and failed and repeated stages, are missing."""

    def total(self, cost: str) -> float | None:
        """The sum of one cost over all executions; None if none has it."""
        values = [e.cost[cost] for e in self.executions if cost in e.cost]
        return round(sum(values), 6) if values else None

    @property
    def lost(self) -> tuple[Execution, ...]:
        """The executions that failed, were killed, or were done again."""
        made = Counter(e.key for e in self.executions if e.key and not e.failed)
        lost = []
        for execution in self.executions:
            if execution.failed:
                lost.append(execution)
            elif made[execution.key] > 1:
                made[execution.key] -= 1
                lost.append(execution)
        return tuple(lost)

    @property
    def trials(self) -> tuple[Execution, ...]:
        """The executions of stages that only trials of tuning use."""
        return tuple(e for e in self.executions if e.trial)


def seconds(executions: Iterable[Execution]) -> float:
    """The device-seconds of some executions."""
    return sum(e.cost.get("device_seconds", 0.0) for e in executions)


def of(ledger: Mapping[str, Execution], records: Iterable[Record]) -> Compute:
    """The compute of a board.

    Args:
        ledger: id -> execution, of the board.
        records: the valid records of the board, of which those without an execution in the ledger add what they know.
    """
    executions = [ledger[id_] for id_ in sorted(ledger)]
    keys = {execution.key for execution in executions}
    told = [record for record in records if record.status in {"done", "trial"} and record.key not in keys]
    known = {(e.stage, round(e.cost.get("device_seconds", 0.0), 3)) for e in executions}
    found: dict[tuple[str, float], Execution] = {}
    for record in told:
        trials = record.tuning.trials if record.tuning else []
        for cost, trial in [*((trial.cost, True) for trial in trials), (record.cost, False)]:
            for name, stage in _IN_RECORDS.items():
                # Records that share a stage have equal seconds of it, but for sums over rounds.
                if name == "sample_device_seconds" and record.method.params.get("rounds"):
                    continue
                if name in cost and (spent := (stage, cost[name])) not in known:
                    found.setdefault(spent, _of_record(stage, cost, cost[name], trial=trial))
    return Compute((*executions, *found.values()), complete=not told)


def _of_record(stage: str, cost: Mapping[str, float], spent: float, *, trial: bool) -> Execution:
    tokens = {"tokens_trained": cost["tokens_trained"]} if stage == "distill" and "tokens_trained" in cost else {}
    id_ = f"{stage} {spent}"
    return Execution(id_, id_, stage, trial=trial, cost={"device_seconds": spent, **tokens})
