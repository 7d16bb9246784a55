"""Removes records from a board: those of older data, of a status, or of a task, a method or a cell."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plad_bench.contract.errors import UsageError
from plad_bench.leaderboard.board import Board
from plad_bench.records.storage import RecordError, read

OLDER = "older"
STATUSES = ("failed", "skipped", "trial")
_BESIDE = (".json", ".scores.parquet", ".samples.jsonl", ".curve.csv")
"""Endings of the files of one cell."""


def chosen(board: Board, directory: Path, what: Sequence[str]) -> list[Path]:
    """The record files selected by names.

    Args:
        board: the board.
        directory: its directory.
        what: each is `older`, the status failed, skipped or trial, or a cell's name or whole parts of its beginning:
            TASK, TASK/STUDENT+TEACHER and so on.

    Raises:
        UsageError: if a name selects no record.
    """
    cells = directory / "cells"
    files = sorted(cells.glob("**/*.json"))
    found: dict[Path, None] = {}
    for one in what:
        if one == OLDER:
            matching = [cells / file for file in board.older_files]
        elif one in STATUSES:
            matching = [file for file in files if _status(file) == one]
        else:
            wanted = one.strip("/").removeprefix(f"{directory.name}/")
            names = {file: file.relative_to(cells).with_suffix("").as_posix() for file in files}
            matching = [file for file, name in names.items() if f"{name}/".startswith(f"{wanted}/")]
            if not matching:
                raise UsageError(
                    f"board {directory.name} has no record {one!r}",
                    f"Use {OLDER}, {', '.join(STATUSES)}, or a cell's name or its beginning, as below {cells}.",
                )
        found |= dict.fromkeys(matching)
    return list(found)


def remove(records: Sequence[Path], cells: Path) -> None:
    """Delete these record files with the files beside them, and directories below `cells` that become empty."""
    for record in records:
        for ending in _BESIDE:
            record.with_suffix(ending).unlink(missing_ok=True)
        for above in record.parents:
            if above == cells or any(above.iterdir()):
                break
            above.rmdir()


def _status(file: Path) -> str:
    try:
        return read(file).status
    except RecordError:
        return ""
