"""Selectors: `name` or `name[param=value,...]`, comma-separated; `|` separates the values of a sweep."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from plad_bench.contract.errors import UsageError


@dataclass(frozen=True)
class Selector:
    """One selected component; parameter values are unparsed text."""

    name: str
    values: tuple[tuple[str, str], ...] = ()


def parse(text: str) -> list[Selector]:
    """Parse a comma-separated list of selectors, and expand sweeps.

    >>> [s.values for s in parse("plad[beta=0.1|1,logprob='sum']")]
    [(('beta', '0.1'), ('logprob', 'sum')), (('beta', '1'), ('logprob', 'sum'))]

    Raises:
        UsageError: if a part cannot be parsed or is empty.
    """
    parts = [part.strip() for part in _split(text, ",", text)]
    if not any(parts):
        return []
    if not parts[-1]:  # a comma at the end
        parts.pop()
    return [selector for part in parts for selector in _selector(part, text)]


def _selector(part: str, text: str) -> list[Selector]:
    name, bracket, rest = part.partition("[")
    name = name.strip()
    if not part:
        raise UsageError(
            f"{text!r} has an empty part", "Write a name before and after each comma, or remove the comma."
        )
    if not bracket:
        return [Selector(name)]
    if not rest.endswith("]") or not name:
        raise _unreadable(part, text)
    choices: list[list[tuple[str, str]]] = []
    for item in _split(rest[:-1], ",", text):
        key, equals, values = item.partition("=")
        if not equals or not key.strip():
            raise _unreadable(item, text)
        choices.append([(key.strip(), _unquote(value.strip())) for value in _split(values, "|", text)])
    keys = [choice[0][0] for choice in choices]
    if len(set(keys)) < len(keys):
        raise _unreadable(part, text)
    return [Selector(name, combination) for combination in itertools.product(*choices)]


def _split(text: str, separator: str, whole: str) -> list[str]:
    """Split at separators that are outside brackets and quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]":
            depth += 1 if character == "[" else -1
        elif character == separator and depth == 0:
            parts.append("")
            continue
        parts[-1] += character
    if depth or quote:
        raise _unreadable(text, whole)
    return parts


def _unquote(value: str) -> str:
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    return value[1:-1] if quoted else value


def _unreadable(part: str, text: str) -> UsageError:
    return UsageError(
        f"cannot parse {part!r} in {text!r}",
        "Write name or name[param=value,param=value]; quote values that contain , | or ].",
    )
