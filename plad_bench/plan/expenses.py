"""What a method's training uses up: before it begins, in its inputs, and as it goes on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, TypeAlias

from plad_bench.contract import rounds
from plad_bench.contract.training_budget import TrainingBudget

Parts: TypeAlias = Mapping[str, list[tuple[str, str]]]
"""Name of a cost in records -> (key of a stage, name in the stage's cost) of each part of its sum."""
Facts: TypeAlias = Mapping[str, Mapping[str, Any]]
"""Key of a stage -> its counts, cost, notes and seconds."""

_OF_LOGPROBS = {
    "signals_bytes": "signals_bytes",
    "signals_tokens": "teacher_tokens_scored",
    "signals_device_seconds": "device_seconds",
    "teacher_energy_wh": "energy_wh",
    "startup_energy_wh": "startup_energy_wh",
}
"""Name of a cost in records -> name in the cost of a stage that precomputes log-probabilities."""
_OF_INPUTS = {
    "teach": {
        "teacher_device_seconds": "device_seconds",
        "teacher_tokens": "tokens_generated",
        "teacher_money": "money",
        "teacher_energy_wh": "energy_wh",
        "startup_energy_wh": "startup_energy_wh",
    },
    "sample": {"sample_device_seconds": "device_seconds", "tokens_generated": "tokens_generated"},
    "signals": _OF_LOGPROBS,
}
"""Kind of a stage that trainings read -> name of a cost in records -> name in the stage's cost."""
_OF_TRAINING = {
    "train_device_seconds": "device_seconds",
    "train_energy_wh": "energy_wh",
    "startup_energy_wh": "startup_energy_wh",
    "tokens_generated": "tokens_generated",
    "tokens_trained": "tokens_trained",
    "tokens_read": "tokens_read",
    "steps": "steps",
    "step_milliseconds": "step_milliseconds",
    "update_device_seconds": "update_device_seconds",
    "teacher_tokens_scored": "teacher_tokens_scored",
    "teacher_tokens_cached": "teacher_tokens_cached",
    "peak_memory_bytes": "peak_memory_bytes",
}
"""Name of a cost in records -> name in the cost of a method's training."""
_OF_EARLIER_ROUND = {
    name: own for name, own in _OF_TRAINING.items() if name not in {"step_milliseconds", "peak_memory_bytes"}
}
"""Those that add up over the rounds of a training."""


def before(stages: Iterable[tuple[str, str]]) -> Parts:
    """The costs of what a training reads: teacher responses, off-policy samples, precomputed log-probabilities.

    `stages` are the names and keys of those that the training depends on, each once.
    """
    return _joined((key, _names(name)) for name, key in stages)


def of_cell(stages: Iterable[tuple[str, str]], training: str, sft_init: str) -> Parts:
    """All costs in the record of a method's cell.

    Args:
        stages: names and keys of the stages that its training depends on, each once.
        training: its key.
        sft_init: key of the SFT initialisation.
    """
    own = ((training, _OF_TRAINING), (sft_init, {"sft_init_device_seconds": "device_seconds"}))
    return _joined([*((key, _names(name)) for name, key in stages), *own])


def _names(stage: str) -> Mapping[str, str]:
    return _OF_EARLIER_ROUND if stage.startswith("distill-") else _OF_INPUTS.get(rounds.kind(stage), {})


def _joined(costs: Iterable[tuple[str, Mapping[str, str]]]) -> Parts:
    found: dict[str, list[tuple[str, str]]] = {}
    for key, names in costs:
        for name, own in names.items():
            found.setdefault(name, []).append((key, own))
    return found


def total(parts: Parts, facts: Facts) -> dict[str, float]:
    """The costs of stages whose facts are known; a cost that no stage has is left out."""
    found = {}
    for name, of in parts.items():
        values = [cost[own] for key, own in of if own in (cost := facts.get(key, {}).get("cost", {}))]
        if values:
            found[name] = round(sum(values), 3)
    return found


def used(budget: Mapping[str, Any], cost: Mapping[str, float]) -> float:
    """How much of a kind of budget a cell has used up so far.

    Args:
        budget: as in the specification of a training: `kind`, `amount` and, for money, `prices`.
        cost: as in a record, with `update_device_seconds`, the device-seconds of the updates alone.
    """
    match budget["kind"]:
        case "tokens":
            return cost.get("tokens_trained", 0.0)
        case "device-seconds":
            return cost.get("update_device_seconds", 0.0)
        case "teacher-tokens":
            return sum(cost.get(name, 0.0) for name in ("teacher_tokens", "signals_tokens", "teacher_tokens_scored"))
    from plad_bench.plan.boardfile import Prices

    return Prices(**budget["prices"]).so_far(cost)


def exceeded(budget: Mapping[str, Any], cost: Mapping[str, float]) -> str:
    """Why a training cannot begin, if its inputs have used up the budget; empty if they have not."""
    spent = used(budget, cost)
    if spent < budget["amount"]:
        return ""
    limit = TrainingBudget(budget["kind"], budget["amount"])
    return f"its inputs use up the budget of {limit.words} before training begins: they take {spent:,.6g}"
