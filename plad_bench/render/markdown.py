"""A board as a page of GitHub markdown. The same records give the same bytes.

Whatever comes from a record passes through `escape` or `code` (records/text.py) and can't become markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from urllib.parse import quote

from plad_bench.leaderboard.board import Board, Group
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.leaderboard.sizes import SizeSeries
from plad_bench.records.text import code, escape
from plad_bench.render import entries, origin, overview, page_model
from plad_bench.render.answer import answer
from plad_bench.render.pieces import Line, Link, Name, Said, Section, Strong, Table

MADE = "<!-- Written by `plad-bench leaderboard`; do not edit. -->"
"""The first line of the page over all boards, by which `leaderboard` knows that it may overwrite the file."""


def render(
    board: Board,
    plots: Mapping[tuple[int, str], str] | None = None,
    sections: Sequence[str] = (),
    sizes: Mapping[str, SizeSeries] | None = None,
) -> str:
    """The page of a board.

    Args:
        board: what to show.
        plots: (index of a group, title of the plot) -> the path of its SVG, relative to the page.
        sections: markdown of plugins, placed before "How to reproduce".
        sizes: path of an SVG, relative to the page -> what it shows.
    """
    parts = [f"# {escape(board.title)}"]
    if board.settings.notes:
        parts.append(escape(board.settings.notes, 2000))
    if not board.groups:
        parts.append("No records yet.")
    several = len(board.groups) > 1
    parts += blocks(overview.sections(board), "##")
    for path, of in (sizes or {}).items():
        parts.append(f"![{escape(of.metric.name)} by size of the {of.varied}]({path})")
    for index, group in enumerate(board.groups):
        if several:
            parts.append(f"## {code(group.task)}, teacher {code(group.teacher)}, student {code(group.student)}")
        level = "###" if several else "##"
        parts += [inline(line)] if (line := answer(group)) else []
        parts.append(setting(group))
        first, *others = page_model.sections(group, board.settings.docs)
        parts += blocks([first], level)
        if images := [(title, path) for (of, title), path in (plots or {}).items() if of == index]:
            parts += [f"{level} Plots", *(f"![{escape(title)}]({path})" for title, path in images)]
        parts += blocks(others, level)
        if more := page_model.more_samples(board, group):
            parts += [f"{level} Samples", inline(more)]
    parts += blocks(origin.left_out(board), "##")
    parts += [section.strip() for section in sections if section.strip()]
    if commands := origin.commands(board):
        parts += ["## How to reproduce", "\n".join(f"    {command}" for command in commands)]
    parts += [inline(line) for line in origin.origin(board)]
    return "\n\n".join(parts) + "\n"


def render_index(title: str, sections: Iterable[Section]) -> str:
    """The page over several boards."""
    return "\n\n".join([MADE, f"# {title}", *blocks(sections, "##")]) + "\n"


def blocks(sections: Iterable[Section], level: str) -> Iterable[str]:
    """The paragraphs of a page's parts, whose titles have that many #."""
    for section in sections:
        if section.title:
            yield f"{level} {inline(section.title)}"
        if section.before:
            yield section.before
        if section.table:
            yield _table(section.table)
        if section.note:
            yield f"<sub>{inline(section.note)}</sub>"


def inline(line: Line) -> str:
    """A line of markdown."""
    return "".join(map(_piece, line))


def setting(group: Group) -> str:
    """The conditions of a group, in one line."""
    return inline(page_model.setting(group))


def header(metric: MetricInfo) -> str:
    """Name, unit, and an arrow in the better direction."""
    return inline(entries.header(metric))


def table(head: Sequence[str], body: Iterable[Sequence[str]], align: str) -> str:
    """A markdown table of cells that are escaped already; `align` has an l or r per column."""
    rule = [{"l": ":--", "r": "--:"}[a] for a in align]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def _table(shown: Table) -> str:
    head = [inline(column.line) for column in shown.columns]
    body = [[inline(entry.line) for entry in row] for row in shown.rows]
    return table(head, body, "".join("r" if column.right else "l" for column in shown.columns))


def _piece(piece: str | Name | Said | Strong | Link) -> str:
    match piece:
        case Name(text, url, limit):
            return f"[{code(text, limit)}]({url})" if url else code(text, limit)
        case Said(text, limit):
            return escape(text, limit)
        case Strong(text):
            return f"**{text}**"
        case Link(text, folder):
            return f"[{code(text)}]({quote(folder)}/README.md)"
    return piece
