"""The short form of a board in a README, between `<!-- plad-bench:NAME -->` and `<!-- /plad-bench:NAME -->`."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping

from plad_bench.contract.errors import UsageError
from plad_bench.leaderboard.board import Board, Group
from plad_bench.records.text import NONE, code
from plad_bench.render import entries, markdown

_MARKER = re.compile(r"<!--\s*(/?)plad-bench:(\S*?)\s*-->")


def names(text: str) -> list[str]:
    """The boards that a text has sections for, in their order.

    Raises:
        UsageError: if the text has no marker, or a marker without its counterpart.
    """
    return [name for name, _, _ in _places(text)]


def fill(text: str, boards: Mapping[str, Board], folder: str) -> str:
    """The text with the section of each board brought up to date.

    Args:
        text: markdown with markers.
        boards: by name; sections of other boards stay as they are.
        folder: the directory of the boards relative to the text, such as "leaderboards".

    Raises:
        UsageError: as `names`.
    """
    for name, start, end in reversed(_places(text)):
        if (board := boards.get(name)) is not None:
            inner = "\n\n".join(_excerpt(group, board, f"{folder}/{name}") for group in board.groups)
            text = f"{text[:start]}\n{inner}\n{text[end:]}"
    return text


def _places(text: str) -> list[tuple[str, int, int]]:
    """(board, start, end) of what stands between each pair of markers."""
    markers = list(_MARKER.finditer(text))
    if not markers:
        raise UsageError(
            "no marker of a board found",
            "Write <!-- plad-bench:NAME --> and <!-- /plad-bench:NAME --> where the board should appear.",
        )
    places = []
    for first, last in itertools.zip_longest(markers[::2], markers[1::2]):
        if first[1]:
            raise UsageError(
                f"line {_line(text, first)}: {first[0]} closes no section", "Add its opening marker, or remove it."
            )
        if last is None or last[1] != "/" or last[2] != first[2]:
            raise UsageError(
                f"line {_line(text, first)}: {first[0]} is not closed",
                f"Write <!-- /plad-bench:{first[2]} --> where its section ends, before any other marker.",
            )
        places.append((first[2], first.end(), last.start()))
    return places


def _line(text: str, marker: re.Match[str]) -> int:
    return text.count("\n", 0, marker.start()) + 1


def _excerpt(group: Group, board: Board, path: str) -> str:
    columns = group.metrics[:6]
    places = {metric.name: entries.decimals(group, metric) for metric in columns}
    body = [
        [
            entries.starred(row),
            code(row.label),
            *(entries.value(row.estimates.get(metric.name), metric, places[metric.name]) for metric in columns),
            row.access or NONE,
            entries.seeds(row),
        ]
        for row in (*group.baselines, *group.rows)
    ]
    head = ["Rank", "Method", *(markdown.header(metric) for metric in columns), "Teacher access", "Seeds"]
    table = markdown.table(head, body, "rl" + "r" * len(columns) + "lr")
    # A board with several groups has a picture for each, which its page shows.
    alone = len(board.groups) == 1
    picture = f"![{board.name}: quality with intervals]({path}/plots/quality.svg)\n\n" if alone else ""
    setting = markdown.setting(group)
    return f"{picture}{setting}\n\n{table}\n\nFull board: [{path}]({path}/README.md)."
