"""The files of a board's page, and of the page over several boards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from plad_bench.contract import gc_pause
from plad_bench.contract.names import UNLISTED, slug
from plad_bench.leaderboard.board import Board
from plad_bench.leaderboard.loading import load
from plad_bench.render import html, index, markdown, overview, plots


def render_board(directory: Path, sections: Sequence[str] = ()) -> dict[Path, bytes]:
    """Path -> content of the files of a board's page: README.md, index.html and plots/*.svg. Writes nothing.

    Raises:
        UsageError: if board.toml is malformed.
    """
    return render(load(directory), directory, sections)


@gc_pause.paused()
def render(board: Board, directory: Path, sections: Sequence[str] = ()) -> dict[Path, bytes]:
    """The same for a board that was loaded already."""
    sections = [section.encode(errors="replace").decode() for section in sections]
    drawn: dict[tuple[int, str], str] = {}
    files: dict[Path, bytes] = {}
    for place, group in enumerate(board.groups):
        prefix = f"{place + 1}-{slug(group.task)}-" if len(board.groups) > 1 else ""
        for title, name, draw in plots.ALL:
            svg = draw(group)
            if svg is not None:
                drawn[place, title] = f"plots/{prefix}{name}.svg"
                files[directory / "plots" / f"{prefix}{name}.svg"] = svg.encode()
    by_size = {}
    for place, of_series in enumerate(overview.size_series(board), start=1):
        by_size[f"plots/size-{place}.svg"] = of_series
        files[directory / "plots" / f"size-{place}.svg"] = plots.sizes(of_series).encode()
    return {
        directory / "README.md": markdown.render(board, drawn, sections, by_size).encode(),
        directory / "index.html": html.render(board, sections).encode(),
        **files,
    }


def render_index(boards: Mapping[str, Board], directory: Path) -> dict[Path, bytes]:
    """The page over boards, by name, that lie in a directory; nothing if there is no board to list.

    A README.md or index.html there that was not rendered by this program is left out.
    """
    listed = [board for name, board in boards.items() if name not in UNLISTED]
    if not listed:
        return {}
    sections = list(index.sections(listed))
    files = {
        directory / "README.md": markdown.render_index(index.TITLE, sections).encode(),
        directory / "index.html": html.render_index(index.TITLE, sections).encode(),
    }
    return {path: data for path, data in files.items() if _ours(path)}


def _ours(path: Path) -> bool:
    """Whether the file may be written: it does not exist, or was rendered before."""
    try:
        with path.open("rb") as stream:
            head = stream.read(200)
    except FileNotFoundError:
        return True
    return any(mark.encode() in head for mark in (markdown.MADE, html.MADE))
