"""CSV and TSV, row by row: what is broken is refused by line, and takes no other row with it."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal

from plad_bench import StageError

_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
_SWALLOWED = 5
"""Lines in one row, each of which would be a row of its own, that show a quote which was never meant to open a text."""


@dataclass
class CsvTable:
    """The rows of a file, and what is to be said of it."""

    name: str
    delimiter: str
    """What separates columns where nothing in the header says otherwise."""
    remarks: list[str] = field(default_factory=list)
    spaced: bool = False
    """Whether a space follows each separator that is no part of the text."""

    def rows(self, text: Iterable[str]) -> Iterator[tuple[int, dict[str, str | None] | str]]:
        """Every row as (line it begins at, its values by column), or (line, why it is refused).

        Args:
            text: the file's lines, with their ends as they are in the file.

        Raises:
            StageError: for a header that cannot be read, and where it cannot be told whether a quoted text of several
                lines is one or is many rows.
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
                # Only the line that opens the quote is refused; those that the quote would swallow are read anew.
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
                yield first, "more columns than the header has"
            else:
                self._check_swallowed(first, lines.taken, len(header))
                yield first, dict(zip(header, [*values, *[None] * (len(header) - len(values))], strict=True))

    def _reader(self, lines: Iterable[str], quoting: Literal[0, 3] = csv.QUOTE_MINIMAL) -> Iterator[list[str]]:
        return csv.reader(lines, strict=True, delimiter=self.delimiter, skipinitialspace=self.spaced, quoting=quoting)

    def _header(self, lines: _Lines) -> list[str]:
        """The names of the columns; finds out how they are separated."""
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
            self.remarks.append("the space after each separator is taken as a part of it")
        stripped = [name.strip() for name in names]
        if stripped != names and not self.spaced:
            spaced = ", ".join(f'"{name}"' for name in names if name != name.strip())
            self.remarks.append(f"spaces around the names of columns are ignored: {spaced}")
        twice = sorted({name for name in stripped if name and stripped.count(name) > 1})
        if twice:
            raise StageError(
                f"the header of {self.name} names {', '.join(twice)} more than once", "Name each column once."
            )
        return stripped

    def _check_swallowed(self, first: int, taken: list[str], columns: int) -> None:
        """Refuse a row of several lines each of which is a whole row when its quotes are read as text."""
        if columns < 2 or len(taken) < _SWALLOWED:
            return
        if all(len(values) == columns for values in self._reader(taken, csv.QUOTE_NONE)):
            raise StageError(
                f"{self.name}: the quote opened in line {first} closes in line {first + len(taken) - 1} only, and all "
                f"{len(taken)} lines from the one to the other would be rows of {columns} columns",
                "Close the quote where its text ends, or give the file as JSON Lines if all this is one text.",
            )


class _Lines(Iterator[str]):
    """Lines of a text, of which those of the row under way can be read again."""

    def __init__(self, text: Iterable[str]) -> None:
        self._text = iter(text)
        self._again: list[str] = []
        self.number = 0
        """Of the last line that was taken, from 1."""
        self.taken: list[str] = []
        """Since this list was cleared."""

    def __next__(self) -> str:
        line = self._again.pop() if self._again else next(self._text)
        self.number += 1
        self.taken.append(line)
        return line

    def give_back(self, *, all_of_them: bool = False) -> None:
        """Have the lines that were taken come again, but for the first."""
        back = self.taken[0 if all_of_them else 1 :]
        self._again.extend(reversed(back))
        self.number -= len(back)


def _has_stray_quote(line: str, values: list[str]) -> bool:
    return '""' not in line and any('"' in value for value in values)
