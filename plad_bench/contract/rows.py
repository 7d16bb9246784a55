"""Accounts of the rows of a data set or of a file of responses: each row is read, or refused and counted.

The numbers of rows read and refused add up to the number of rows in the data, and all three are shown to the user.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import BadRow, Source

MAX_BAD = 0.05
"""Share of bad rows above which the file is rejected, because it is probably the wrong one."""
LISTED = 10
"""Maximum number of bad rows to list."""


@dataclass
class Account:
    """The account of one data set or one teacher's responses."""

    what: str
    """The task or teacher, which begins every message."""
    read: int = 0
    bad: list[BadRow] = field(default_factory=list)
    sources: list[Source] = field(default_factory=list)

    def add(self, item: BadRow | Source) -> None:
        """Count a bad row, or add a source."""
        if isinstance(item, BadRow):
            self.bad.append(item)
        else:
            self.sources.append(item)

    def close(self, counts: dict[str, float], notes: dict[str, Any]) -> None:
        """Write the account to counts and notes, and the first bad rows to the log.

        Raises:
            StageError: if more than MAX_BAD of the rows are bad, or if a row was neither read nor refused.
        """
        total = self.read + len(self.bad)
        there = sum(s.rows for s in self.sources if s.rows is not None) if self.sources else total
        if there != total:
            raise StageError(
                f"{self.what}: of {there} rows, {self.read} were read and {len(self.bad)} refused, which does not add "
                "up",
                "Report this to the author of the task or teacher.",
            )
        counts["rows"], counts["rows_read"] = total, self.read
        if remarks := [_remark(source) for source in self.sources if source.remark]:
            notes["files"] = remarks[:LISTED]
        if not self.bad:
            return
        counts["bad_rows"] = len(self.bad)
        notes["bad_rows"] = listed = [f"{row.where}: {row.reason}" for row in self.bad[:LISTED]]
        log(f"{len(self.bad)} of {total} rows cannot be used", listed)
        if len(self.bad) > MAX_BAD * total:
            first = "; ".join(listed[:3]) + (f"; and {len(self.bad) - 3} more" if len(self.bad) > 3 else "")
            hint = next((row.hint for row in self.bad if row.hint), "")
            raise StageError(
                f"{self.what}: {len(self.bad)} of {total} rows cannot be used: {first}{f' ({hint})' if hint else ''}",
                "Correct the rows, or give the right file and fields.",
            )


def lines(counts: Mapping[str, float], notes: Mapping[str, Any]) -> Iterator[str]:
    """The account that `Account.close` wrote, as lines of text; none for older artifacts."""
    if "rows" not in counts:
        return
    refused = counts.get("bad_rows", 0)
    first = f"; the first: {notes['bad_rows'][0]}" if refused and notes.get("bad_rows") else ""
    yield f"{counts['rows']:.0f} rows: {counts['rows_read']:.0f} read, {refused:.0f} refused{first}"
    yield from notes.get("files", ())


def _remark(source: Source) -> str:
    return f"{source.name} was not read: {source.remark}" if source.rows is None else f"{source.name}: {source.remark}"


def log(head: str, lines: Sequence[str]) -> None:
    """Write a heading and the first instances to the stage's log."""
    print(f"{head}; the first ones:", *lines, sep="\n  ", flush=True)  # noqa: T201
