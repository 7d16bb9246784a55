"""Reads CSV and TSV row by row; a broken row is refused by its line, and affects no other row."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from plad_bench import StageError

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SWALLOWED = 5
"""If one row spans this many lines that are rows by themselves, its quote was not meant to open a text."""


@dataclass
class CsvTable:
    """The rows of a file, and remarks about it."""

    name: str
    delimiter: str
    """The separator of columns, unless the header shows another."""
    remarks: list[str] = field(default_factory=list)
    spaced: bool = False
    """Whether a space after each separator belongs to the separator."""

    def rows(self, text: Iterable[str]) -> Iterator[tuple[int, dict[str, str | None] | str]]:
        """Every row as (first line, its values by column), or (line, why it is refused).

        Args:
            text: the file's lines with their original ends.

        Raises:
            StageError: for an unreadable header, and if a quoted text of several lines may be one row or many.
        """
        csv.field_size_limit(sys.maxsize)
        lines = _Lines(text)
        header = self._header(lines)
        reader = self._reader(lines)
        doubtful = 0
        while True:
            lines.taken.clear()
            first = lines.number + 1
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                # Only the line with the opening quote is refused; the lines up to its end are read again.
                doubtful = max(doubtful, lines.number)
                swallowed = len(lines.taken) > 1
                lines.give_back()
                reader = self._reader(lines)
                yield first, "a quote is opened and never closed" if swallowed else f"not CSV: {error}"
                continue
            if not values:  # a blank line
                continue
            if first <= doubtful and len(lines.taken) == 1 and _has_stray_quote(lines.taken[0], values):
                yield first, "a quote is closed that was not opened in this line"
            elif len(values) > len(header):
                yield first, "more columns than the header"
            else:
                self._check_swallowed(first, lines.taken, len(header))
                yield first, dict(zip(header, [*values, *[None] * (len(header) - len(values))], strict=True))

    def _reader(self, lines: Iterable[str], quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> Iterator[list[str]]:
        return csv.reader(lines, strict=True, delimiter=self.delimiter, skipinitialspace=self.spaced, quoting=quoting)

    def _header(self, lines: _Lines) -> list[str]:
        """Read the names of the columns, and detect their separator."""
        first = next(lines, "")
        lines.give_back(all_of_them=True)
        if self.delimiter not in first:
            found = next((d for d in _DELIMITERS if d in first), self.delimiter)
            if found != self.delimiter:
                self.delimiter = found
                self.remarks.append(f"columns are separated by {_DELIMITERS[found]} ({found})")
        try:
            names = next(self._reader(lines), [])
            "".join(names).encode()
        except (csv.Error, UnicodeEncodeError) as error:
            what = "UTF-8" if isinstance(error, UnicodeEncodeError) else f"CSV: {error}"
            raise StageError(
                f"the header of {self.name} is not {what}", "Save the file as UTF-8, with the columns' names first."
            ) from None
        if len(names) > 1 and all(name.startswith(" ") for name in names[1:]):
            self.spaced = True
            self.remarks.append("the space after each separator belongs to the separator")
        stripped = [name.strip() for name in names]
        if stripped != names and not self.spaced:
            spaced = ", ".join(f'"{name}"' for name in names if name != name.strip())
            self.remarks.append(f"spaces around column names are ignored: {spaced}")
        twice = sorted({name for name in stripped if name and stripped.count(name) > 1})
        if twice:
            raise StageError(
                f"the header of {self.name} names {', '.join(twice)} more than once", "Name each column once."
            )
        return stripped

    def _check_swallowed(self, first: int, taken: list[str], columns: int) -> None:
        """Refuse a row of several lines if each of them is a complete row when quotes are ordinary text."""
        if columns < 2 or len(taken) < _SWALLOWED:
            return
        if all(len(values) == columns for values in self._reader(taken, csv.QUOTE_NONE)):
            raise StageError(
                f"{self.name}: the quote opened in line {first} is closed in line {first + len(taken) - 1}, and all "
                f"{len(taken)} lines between them would be rows of {columns} columns",
                "Close the quote where its text ends, or use JSON Lines if this is a single text.",
            )


class _Lines(Iterator[str]):
    """Lines of a text, with the possibility to read those of the current row again."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self._again: list[str] = []
        self.number = 0
        """Number of the last line read, from 1."""
        self.taken: list[str] = []
        """Lines read since this list was cleared."""

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._text)
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self, *, all_of_them: bool = False) -> None:
        """Put the lines of the current row back, except the first."""
        back = self.taken[0 if all_of_them else 1 :]
        self._again.extend(reversed(back))
        self.number -= len(back)


def _has_stray_quote(line: str, values: list[str]) -> bool:
    return '""' not in line and any('"' in value for value in values)
