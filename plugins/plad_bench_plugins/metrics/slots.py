"""Slot errors of data-to-text: parts of the meaning that a text omits, and additions to it.

An example's `meta` defines how its texts are parsed: `slots` is the meaning, a list of [slot, value], and
`matcher` names a function "module:function" (text, slots) -> (missing, added).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from pkgutil import resolve_name
from typing import Any, TypeAlias

from plad_bench import Metric, Scored, Scorers

Matcher: TypeAlias = Callable[[str, Sequence[Sequence[str]]], tuple[int, int]]

_matcher: Callable[[str], Matcher] = lru_cache(resolve_name)


def errors(example: Scored) -> tuple[float, float]:
    """(missing, added) statements of the response, each per slot of the meaning; NaN if the example has no slots."""
    slots = example.meta.get("slots")
    if not slots:
        return math.nan, math.nan
    missing, added = _matcher(example.meta["matcher"])(example.response, slots)
    return missing / len(slots), added / len(slots)


def slot_errors(examples: Sequence[Scored], params: Any, scorers: Scorers) -> list[float]:
    """Missing and added statements per slot of the meaning, (Dusek, Howcroft and Rieser 2019, section 4: SER)."""
    return [sum(errors(example)) for example in examples]


def missing_slots(examples: Sequence[Scored], params: Any, scorers: Scorers) -> list[float]:
    """Share of the meaning's slots that the response does not state."""
    return [errors(example)[0] for example in examples]


def added_slots(examples: Sequence[Scored], params: Any, scorers: Scorers) -> list[float]:
    """Statements of the response that are not in the meaning, per slot of the meaning."""
    return [errors(example)[1] for example in examples]


RECORDS = (
    Metric(
        name="slot-errors",
        summary="Missing and added statements per slot of the meaning.",
        better="lower",
        unit="%",
        success=0.0,
        cost="text alone",
        formula="(missing + added statements) / slots of the meaning",
        score=slot_errors,
    ),
    Metric(
        name="missing-slots",
        summary="Share of the meaning's slots that the response omits.",
        better="lower",
        unit="%",
        cost="text alone",
        formula="missing statements / slots of the meaning",
        score=missing_slots,
    ),
    Metric(
        name="added-slots",
        summary="Statements that are not in the meaning, per slot of the meaning.",
        better="lower",
        unit="%",
        cost="text alone",
        formula="added statements / slots of the meaning",
        score=added_slots,
    ),
)
