"""What a page is made of before any markup: names and text within lines, lines within tables and sections.

A renderer (markdown.py, html.py) turns them into markup. Plain strings are part of the program; whatever comes from a
record is a `Name` or `Said`, which every renderer must escape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from plad_bench.records import text


@dataclass(frozen=True)
class Name:
    """The name of something in a record: a method, a task, a file."""

    text: str
    url: str = ""
    """Where it is explained; empty if nowhere."""
    limit: int = 120


@dataclass(frozen=True)
class Said:
    """Any other text of a record, on one line."""

    text: Any
    limit: int = 300


@dataclass(frozen=True)
class Strong:
    """Emphasised words of the program."""

    text: str


@dataclass(frozen=True)
class Link:
    """The name of a board, and the folder of its page relative to the page with the link."""

    text: str
    folder: str


Line: TypeAlias = tuple[str | Name | Said | Strong | Link, ...]


@dataclass(frozen=True)
class Entry:
    """A cell of a table."""

    line: Line
    number: float | None = None
    """What it sorts by; None: by its text."""
    tip: str = ""
    """Details for renderers that can show them on demand. May quote records."""


@dataclass(frozen=True)
class Column:
    """The head of a column."""

    line: Line
    right: bool = False
    """Whether it is aligned to the right, as numbers are."""
    better: str = ""
    """Which values are better: higher, lower, or empty if neither."""


@dataclass(frozen=True)
class Table:
    """Columns and rows."""

    columns: tuple[Column, ...]
    rows: tuple[tuple[Entry, ...], ...]
    access: tuple[str, ...] = ()
    """Teacher access of each row, if rows are methods; empty for a baseline."""
    named: int = 0
    """The column that names the rows."""
    best: tuple[bool, ...] = ()
    """Which rows are highlighted."""


@dataclass(frozen=True)
class Section:
    """A part of a page. One without a title continues the part before it."""

    kind: str
    title: Line = ()
    before: str = ""
    table: Table | None = None
    note: Line = ()


def plain(line: Line) -> str:
    """A line as text on one line, without markup."""
    return "".join(
        piece if isinstance(piece, str) else text.clean(piece.text, getattr(piece, "limit", 300)) for piece in line
    )


def joined(lines: Sequence[Line], by: str = ", ") -> Line:
    """Several lines as one."""
    return tuple(piece for k, line in enumerate(lines) for piece in (((by,) if k else ()) + line))
