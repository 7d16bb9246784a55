"""What becomes of rows that cannot be used, whatever file they are of: counted, listed, and never too many."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import BadRow

MAX_BAD = 0.05
"""Share of bad rows beyond which a file is taken to be another than was meant."""
LISTED = 10
"""How many bad rows are listed one by one."""


def leave_out(bad: Sequence[BadRow], total: int, what: str, counts: dict[str, float], notes: dict[str, Any]) -> None:
    """Count bad rows, list the first ones in the notes and in the stage's log.

    Raises:
        StageError: if they are more than MAX_BAD of the `total` rows; `what` begins its message.
    """
    if not bad:
        return
    counts["bad_rows"] = len(bad)
    notes["bad_rows"] = listed = [f"{row.where}: {row.reason}" for row in bad[:LISTED]]
    log(f"{len(bad)} of {total} rows are left out", listed)
    if len(bad) > MAX_BAD * total:
        raise StageError(
            f"{what}: {len(bad)} of {total} rows cannot be used: {'; '.join(listed[:3])}"
            + (f"; and {len(bad) - 3} more" if len(bad) > 3 else ""),
            "Correct the rows, or name the right file and fields.",
        )


def log(head: str, lines: Sequence[str]) -> None:
    """Say something in the stage's log, with its first instances."""
    print(f"{head}; the first ones:", *lines, sep="\n  ", flush=True)  # noqa: T201
