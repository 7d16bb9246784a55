"""The budget of every method's training: what is counted, and how an amount is written."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from plad_bench.contract.errors import UsageError

UNITS = {
    "steps": "optimiser steps",
    "tokens": "trained tokens",
    "device-seconds": "device-seconds of training",
    "money": "in money",
    "teacher-tokens": "teacher tokens",
}
"""Kind of budget -> what its amount counts (docs/protocol.md)."""
GROWING = {"tokens", "device-seconds", "money"}
"""Kinds of which every training uses up some at each step, so that no number of steps is needed to end it."""
_WRITTEN = rf"({'|'.join(UNITS)})=([0-9]+(?:[.][0-9]+)?)([kMG]?)"
PATTERN = rf"\A({_WRITTEN})?\z"
"""As pydantic reads it; an empty text is no budget."""
_FACTORS = {"": 1.0, "k": 1e3, "M": 1e6, "G": 1e9}


@dataclass(frozen=True)
class TrainingBudget:
    """An amount of one kind; a training ends with the first step at which it is used up."""

    kind: str
    amount: float

    def __str__(self) -> str:
        factor = next((f for f in "GMk" if self.amount * 1e3 % _FACTORS[f] == 0 and self.amount >= _FACTORS[f]), "")
        return f"{self.kind}={f'{self.amount / _FACTORS[factor]:.6f}'.rstrip('0').rstrip('.')}{factor}"

    @property
    def words(self) -> str:
        """The amount with what it counts, such as "5M trained tokens"."""
        return f"{str(self).partition('=')[2]} {UNITS[self.kind]}"


def parse(text: Any) -> TrainingBudget | None:
    """The budget that a text names; None if it names none."""
    found = re.fullmatch(_WRITTEN, text) if isinstance(text, str) else None
    return TrainingBudget(found[1], round(float(found[2]) * _FACTORS[found[3]], 6)) if found else None


def normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with the budget in its shortest form; one of steps becomes the setting `steps`.

    Raises:
        UsageError: if the amount is 0, or a number of steps is not whole.
    """
    budget = parse(values.get("budget"))
    if budget is None:
        return dict(values)
    if not budget.amount or (budget.kind == "steps" and budget.amount % 1):
        raise UsageError(
            f"budget is {values['budget']!r}", "Give an amount above 0, such as tokens=5M; steps are whole."
        )
    if budget.kind == "steps":
        return {**values, "budget": "", "steps": int(budget.amount)}
    return {**values, "budget": str(budget)}


def replaces_steps(text: Any) -> bool:
    """Whether a budget ends every training without a number of steps."""
    budget = parse(text)
    return budget is not None and budget.kind in GROWING


def check(given: Mapping[str, Any]) -> None:
    """Check that settings which a user gives do not name a number of steps beside a budget that replaces it.

    Raises:
        UsageError: if they do.
    """
    budget, steps = parse(given.get("budget")), given.get("steps")
    if budget is None or steps is None:
        return
    if budget.kind in GROWING or (budget.kind == "steps" and budget.amount != steps):
        raise UsageError(f"--steps {steps} and --budget {budget} both say when training ends", "Leave one of them out.")


def extent(protocol: Mapping[str, Any]) -> str:
    """How long methods train under a protocol, such as "300 steps"; empty if it does not say."""
    budget, steps = parse(protocol.get("budget")), f"{protocol['steps']} steps" if "steps" in protocol else ""
    if budget is None:
        return steps
    return f"a budget of {budget.words}{'' if budget.kind in GROWING else f', at most {steps}'}"
