"""The pages of boards on disk: which files they are, and writing those that differ."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import unwritable, write_atomically
from plad_bench.records import ledger

if TYPE_CHECKING:
    from plad_bench.contract.views import BoardView
    from plad_bench.leaderboard.board import Board

logger = logging.getLogger("plad_bench")

PAGES_LOCK = ".pages.lock"
"""Lock file that exists while pages are written. One left by a killed run means that pages may be out of date."""


def render(directory: Path, registry: Any) -> None:
    """Write the page and plots of a board, remove its outdated plots, and update the index page."""
    from plad_bench.contract import locks

    try:
        with locks.held(directory.parent / PAGES_LOCK):  # or pages of older records could overwrite newer ones
            _render(directory, registry)
    except OSError as error:
        raise unwritable(directory, error) from error


def _render(directory: Path, registry: Any) -> None:
    from plad_bench.contract.names import UNLISTED
    from plad_bench.leaderboard.loading import load
    from plad_bench.render.write import render_index

    board = load(directory)
    write(files(board, directory, registry), directory)
    if directory.name in UNLISTED:
        return
    found = {path.parent.name: path.parent for path in sorted(directory.parent.glob("*/board.toml"))}
    try:
        boards = {name: board if name == directory.name else load(of) for name, of in found.items()}
    except UsageError as error:
        logger.warning("The index page was not updated: %s", error.message)
    else:
        write(render_index(boards, directory.parent))


def outdated(board: Path) -> bool:
    """Whether a board's pages are missing or older than its records, as after a run that was killed."""
    page = board / "README.md"
    if not page.is_file() or (board.parent / PAGES_LOCK).exists():
        return True
    made = page.stat().st_mtime
    sources = [*(board / "cells").rglob("*.json"), *(board / ledger.FOLDER).glob("*.jsonl")]
    return any(source.stat().st_mtime > made for source in sources)


def files(board: Board, directory: Path, registry: Any) -> dict[Path, bytes]:
    """Path -> content of the files of a board's page, with the sections of plugins."""
    from plad_bench.render.write import render

    shown: BoardView = board
    sections = []
    for impl in registry.manager.hook.plad_bench_board_sections.get_hookimpls():
        try:
            text = impl.function(board=shown)
        except Exception as error:  # noqa: BLE001  a plugin's section must not cost the page
            logger.warning("plugin %s failed to write its section: %s", impl.plugin_name, error)
            continue
        if text:
            sections.append(str(text))
    return render(board, directory, sections)


def write(files: Mapping[Path, bytes], directory: Path | None = None) -> list[str]:
    """Write the files that differ, remove other plots from the board's directory, and return the paths of all files."""
    for path in map(Path, differing(files)):
        write_atomically(path, files[path])
    for path in (directory / "plots").glob("*.svg") if directory else ():
        if path not in files:
            path.unlink()
    return [str(path) for path in files]


def differing(files: Mapping[Path, bytes]) -> list[str]:
    """The paths of those that are not on disk with this content."""
    return [str(path) for path, data in files.items() if not path.is_file() or path.read_bytes() != data]
