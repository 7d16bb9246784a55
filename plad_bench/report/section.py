"""A board's short form inside somebody's README, between `<!-- plad-bench:NAME -->` and `<!-- /plad-bench:NAME -->`."""

from __future__ import annotations

import re
from collections.abc import Mapping

from plad_bench.report import content, markdown
from plad_bench.report.board import Board, Group
from plad_bench.report.text import NONE, code


def names(text: str) -> list[str]:
    """The boards that a text has markers for."""
    return re.findall(r"<!-- plad-bench:([\w.-]+) -->", text)


def fill(text: str, boards: Mapping[str, Board], folder: str) -> str:
    """The text with the section of each board brought up to date.

    Args:
        text: markdown with markers.
        boards: by name; markers of others are left alone.
        folder: where the boards lie, as seen from the text, such as "leaderboards".
    """
    for name in names(text):
        board = boards.get(name)
        first, last = f"<!-- plad-bench:{name} -->", f"<!-- /plad-bench:{name} -->"
        if board is None or last not in text:
            continue
        before, _, rest = text.partition(first)
        _, _, after = rest.partition(last)
        inner = "\n\n".join(_excerpt(group, board, f"{folder}/{name}") for group in board.groups)
        text = f"{before}{first}\n{inner}\n{last}{after}"
    return text


def _excerpt(group: Group, board: Board, path: str) -> str:
    columns = group.metrics[:6]
    places = {metric.name: content.decimals(group, metric) for metric in columns}
    body = [
        [
            str(row.rank or ""),
            code(row.label),
            *(content.value(row.estimates.get(metric.name), metric, places[metric.name]) for metric in columns),
            row.access or NONE,
            content.seeds(row),
        ]
        for row in (*group.references, *group.rows)
    ]
    head = ["Rank", "Method", *(markdown.header(metric) for metric in columns), "Teacher access", "Seeds"]
    table = markdown.table(head, body, "rl" + "r" * len(columns) + "lr")
    # With several groups a board has a picture each, under names of their own: its page shows them.
    alone = len(board.groups) == 1
    picture = f"![{board.name}: quality with intervals]({path}/plots/quality.svg)\n\n" if alone else ""
    setting = markdown.setting(group)
    return f"{picture}{setting}\n\n{table}\n\nThe whole board: [{path}]({path}/README.md)."
