"""Look up boards and records by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract.errors import NothingSelectedError, UsageError

if TYPE_CHECKING:
    from plad_bench.records.schema import Record


def find_boards(names: Sequence[str], boards_dir: Path) -> dict[str, Path]:
    """The directories of the named boards, or of all boards if `names` is empty.

    Raises:
        NothingSelectedError: if `boards_dir` contains no board.
        UsageError: if no board has one of the names.
    """
    found = {p.parent.name: p.parent for p in sorted(boards_dir.glob("*/board.toml"))}
    if not found:
        raise NothingSelectedError(f"no board in {boards_dir}", "Create one with `plad-bench run --board NAME`.")
    if unknown := [name for name in names if name not in found]:
        from plad_bench.contract.suggestions import near_matches, suggestion

        raise UsageError(f"no board {unknown[0]!r} in {boards_dir}", suggestion(near_matches(unknown[0], found), found))
    return {name: found[name] for name in names or found}


def find_record(text: str, boards_dir: Path) -> tuple[Path, Record]:
    """The record that a name refers to.

    The full name of a cell is BOARD/TASK/STUDENT+TEACHER/METHOD/seed-N. The text is tried, in this order, as a full
    name, as a board followed by the end of a cell's name, as the end of a full name, and as any part of one. The first
    match wins.

    Args:
        text: the name, a part of it, or the path of a record file.
        boards_dir: the directory of the boards.

    Raises:
        UsageError: if no cell matches, or several do.
    """
    from plad_bench.records import storage

    if Path(text).is_file():
        return Path(text), storage.read(Path(text))
    cells = {_full_name(p, boards_dir): p for p in sorted(boards_dir.glob("*/cells/**/*.json"))}
    board, _, rest = text.partition("/")
    readings = (
        lambda name: name == text,
        lambda name: bool(rest) and name.startswith(f"{board}/") and name.endswith(f"/{rest}"),
        lambda name: name.endswith(f"/{text}"),
        lambda name: text in name,
    )
    found = next((few for reads in readings if (few := [name for name in cells if reads(name)])), [])
    if not found:
        from plad_bench.contract.suggestions import near_matches

        near = near_matches(text, cells)
        raise UsageError(
            f"no cell {text!r} in {boards_dir}",
            f"Did you mean {' or '.join(near)}?" if near else _examples(cells),
        )
    if len(found) > 1:
        raise UsageError(f"{text!r} matches {len(found)} cells", _examples(found))
    return cells[found[0]], storage.read(cells[found[0]])


def board_of(record: Path) -> Path | None:
    """The directory of the board that contains a record file; None if it is outside any board."""
    above = (up.parent for up in record.absolute().parents if up.name == "cells")
    return next((board for board in above if (board / "board.toml").is_file()), None)


def _full_name(path: Path, boards_dir: Path) -> str:
    """BOARD/TASK/STUDENT+TEACHER/METHOD/seed-N of a record file."""
    board, _cells, *cell = path.relative_to(boards_dir).with_suffix("").parts
    return "/".join([board, *cell])


def _examples(names: Sequence[str] | Mapping[str, Path]) -> str:
    if not names:
        return "There are no cells yet: create them with `plad-bench run`."
    first = list(names)[:8]
    more = f"\n    and {len(names) - len(first)} more" if len(names) > len(first) else ""
    return "Give the full name, which begins with the board:\n " + "\n    ".join(first) + more
