"""Parameters that several methods share."""

from __future__ import annotations

from typing import Literal

from plad_bench import Params, Text, param


class MethodParams(Params):
    """What every method takes."""

    lr: float = param(0.0, ge=0, source="ours")
    """Peak learning rate; 0 uses the one that the board's protocol shares among all methods."""


class TokenParams(MethodParams):
    """What every token method on fixed text takes."""

    data: Literal[Text.REFERENCE, Text.TEACHER] = param(Text.REFERENCE, source="ours")
    """The text it trains on: the task's references or the teacher's responses."""
