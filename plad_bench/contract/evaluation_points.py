"""Shares of a training after which its model is evaluated as well, in percent."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from plad_bench.contract.errors import UsageError

_WRITTEN = "[0-9]{1,3}%?(,[0-9]{1,3}%?)*"
PATTERN = rf"\A({_WRITTEN})?\z"
"""As pydantic reads it; an empty text names none."""


def parse(text: Any) -> tuple[int, ...]:
    """The shares before the end of a training that a text names, such as 25, 50 and 75; none if it is not a list."""
    numbers = [part.removesuffix("%") for part in text.split(",")] if isinstance(text, str) and text else []
    return tuple(sorted({int(n) for n in numbers if re.fullmatch("[0-9]{1,3}", n) and 0 < int(n) < 100}))


def normalised(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings with `evaluate_at` in its shortest form: sorted, without 100 %, which is always evaluated.

    Raises:
        UsageError: if a share is 0, or more than 100 %.
    """
    text = values.get("evaluate_at")
    if not (isinstance(text, str) and re.fullmatch(_WRITTEN, text)):
        return dict(values)
    points = parse(text)
    if wrong := {int(part.removesuffix("%")) for part in text.split(",")} - {*points, 100}:
        raise UsageError(
            f"evaluate_at is {text!r}: {min(wrong)} is no share of a training", "Give 1 to 100, such as 25,50,75,100%."
        )
    return {**values, "evaluate_at": ",".join(map(str, points))}


def label(metric: str, percent: int) -> str:
    """The name in records of a metric of the model after a share of its training."""
    return f"{metric} at {percent}%"


def directory(percent: int) -> str:
    """The directory of that model in the artifact of its training."""
    return f"at-{percent}"
