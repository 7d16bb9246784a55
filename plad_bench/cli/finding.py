"""Boards and records, found by what a user typed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract.errors import NothingSelectedError, UsageError

if TYPE_CHECKING:
    from plad_bench.report.results import Record


def find_boards(names: Sequence[str], boards_dir: Path) -> dict[str, Path]:
    """The directories of the boards of these names, or of all boards.

    Raises:
        NothingSelectedError: if there is no board at all.
        UsageError: if a name is none of a board.
    """
    found = {p.parent.name: p.parent for p in sorted(boards_dir.glob("*/board.toml"))}
    if not found:
        raise NothingSelectedError(f"no board in {boards_dir}", "Make one with `plad-bench run --board NAME`.")
    if unknown := [name for name in names if name not in found]:
        from plad_bench.contract.registry import near_matches, suggestion

        raise UsageError(f"no board {unknown[0]!r} in {boards_dir}", suggestion(near_matches(unknown[0], found), found))
    return {name: found[name] for name in names or found}


def find_record(text: str, boards_dir: Path) -> tuple[Path, Record]:
    """The one record a text names.

    Raises:
        UsageError: if it names none, or several.
    """
    from plad_bench.report import results

    if Path(text).is_file():
        return Path(text), results.read(Path(text))
    ids = {f"{p.parts[-1 - _depth(p)]}/{_id(p)}": p for p in sorted(boards_dir.glob("*/cells/**/*.json"))}
    ways = (lambda name: name.endswith(f"/{text}") or name == text, lambda name: text in name)
    matching = next((found for way in ways if (found := {name: p for name, p in ids.items() if way(name)})), {})
    if not matching:
        from plad_bench.contract.registry import near_matches

        near = near_matches(text, ids)
        raise UsageError(
            f"no cell {text!r} in {boards_dir}",
            f"Did you mean {' or '.join(near)}?" if near else _examples(ids),
        )
    if len(matching) > 1:
        raise UsageError(f"{text!r} names {len(matching)} cells", _examples(matching))
    (path,) = matching.values()
    return path, results.read(path)


def board_of(record: Path) -> Path | None:
    """The directory of the board that a record file lies in; None if it lies in none."""
    above = (up.parent for up in record.absolute().parents if up.name == "cells")
    return next((board for board in above if (board / "board.toml").is_file()), None)


def _examples(ids: Iterable[str]) -> str:
    listed = "\n    ".join(list(ids)[:8])
    return f"Name one, for example:\n    {listed}" if listed else "There is none yet: `plad-bench run` makes them."


def _depth(path: Path) -> int:
    return len(path.parts) - path.parts.index("cells", len(path.parts) - 7)


def _id(path: Path) -> str:
    parts = path.with_suffix("").parts
    last = len(parts) - 1 - parts[::-1].index("cells")
    return "/".join(parts[last + 1 :])
