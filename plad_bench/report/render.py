"""All the files of a board's page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from plad_bench.plan.names import slug
from plad_bench.report import markdown, plots
from plad_bench.report.board import Board, load


def render_board(directory: Path, sections: Sequence[str] = ()) -> dict[Path, bytes]:
    """Path -> content of what the page of a board consists of: README.md and plots/*.svg. Writes nothing.

    Raises:
        UsageError: if board.toml is malformed.
    """
    return render(load(directory), directory, sections)


def render(board: Board, directory: Path, sections: Sequence[str] = ()) -> dict[Path, bytes]:
    """The same for a board that was loaded already."""
    drawn: dict[tuple[int, str], str] = {}
    files: dict[Path, bytes] = {}
    for index, group in enumerate(board.groups):
        prefix = f"{index + 1}-{slug(group.task)}-" if len(board.groups) > 1 else ""
        for title, name, draw in (
            ("Quality with intervals", "quality", plots.intervals),
            ("Quality against cost", "cost", plots.cost),
        ):
            svg = draw(group)
            if svg is not None:
                drawn[index, title] = f"plots/{prefix}{name}.svg"
                files[directory / "plots" / f"{prefix}{name}.svg"] = svg.encode()
    return {directory / "README.md": markdown.render(board, drawn, sections).encode(), **files}
