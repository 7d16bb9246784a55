"""Draw what a command printed as a terminal, for the README and the pages.

    plad-bench run 2>&1 | python docs/record.py 'plad-bench run' docs/quickstart.svg

The first and the last lines are shown; what lies between is a line of dots.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

WIDTH, FIRST, LAST = 100, 8, 17
"""Columns, and lines that are shown of the beginning and of the end."""


def drawing(command: str, lines: Sequence[str]) -> str:
    """The SVG of a terminal in which a command printed the lines."""
    console = Console(record=True, width=WIDTH, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "bold green"), (command, "bold")))
    shown = list(lines) if len(lines) <= FIRST + LAST else [*lines[:FIRST], "...", *lines[-LAST:]]
    for line in shown:
        console.print(Text.from_ansi(line), overflow="fold")
    svg = console.export_svg(title="plad-bench", unique_id="terminal")
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)  # no request for a font


@click.command()
@click.argument("command")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def main(command: str, file: Path) -> None:
    """Draw stdin, which COMMAND printed, to FILE."""
    file.write_text(drawing(command, sys.stdin.read().splitlines()), encoding="utf-8")


if __name__ == "__main__":
    main()
