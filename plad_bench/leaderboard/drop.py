"""Remove records from a board: those of older data, those of a status, or those of a task, a method or a cell."""

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
    """The record files that are meant.

    Args:
        board: what is to lose records.
        directory: where it lies.
        what: each is `older`, the status failed, skipped or trial, or the name of a cell or its beginning, whole parts
            of it: TASK, TASK/STUDENT+TEACHER and so on.

    Raises:
        UsageError: if a name is that of no record.
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
                    f"Say {OLDER}, {', '.join(STATUSES)}, or the name of a cell or its beginning, as below {cells}.",
                )
        found |= dict.fromkeys(matching)
    return list(found)


def remove(records: Sequence[Path], cells: Path) -> None:
    """Delete these record files with what lies beside them, and the directories below `cells` that are then empty."""
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
