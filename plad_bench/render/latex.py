"""The ranked tables of a board as LaTeX with the package booktabs; text of records is escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence

from plad_bench.leaderboard.board import Board, Group, Row
from plad_bench.leaderboard.metric_info import MetricInfo
from plad_bench.records import text
from plad_bench.render import entries

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "'": r"\textquotesingle{}",
    "`": r"\textasciigrave{}",
    "-": "{-}",  # two would become a dash
    ",": "{,}",  # and two of these a quotation mark
    "?": "{?}",  # with a ` these become others
    "!": "{!}",
    "[": "{[}",  # or \\ before a row takes it for its argument
    "]": "{]}",
    "*": "{*}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{UPWARDS ARROW}": r"$\uparrow$",
    "\N{DOWNWARDS ARROW}": r"$\downarrow$",
    "\N{DAGGER}": r"\textsuperscript{\dag}",
    "\N{EM DASH}": r"\textemdash{}",
    "\N{INFINITY}": r"$\infty$",
    "\N{HORIZONTAL ELLIPSIS}": r"\dots{}",
    **{c: f"\\{c}" for c in "{}$&#_%"},
}


WIDTH = 88
"""Approximate characters of small type on a line of the class article; a wider table is split into several."""
_LABEL = 26
"""Characters of these for the names of methods; a longer name is broken after a comma."""


def render(board: Board) -> str:
    """The booktabs tables of each group of a board that has rows."""
    tables = [table for group in board.groups if group.rows or group.baselines for table in _tables(board, group)]
    return "\n".join(["% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.", *(tables or [""])])


def escape(value: object, limit: int = 200) -> str:
    """Escape text for LaTeX; a character that LaTeX may not have is written as U+XXXX."""
    return "".join(_character(c) for c in text.clean(value, limit))


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    latin = c.isascii() or (c.isalpha() and ord(c) < 0x180 and len(unicodedata.normalize("NFD", c)) > 1)
    return c if latin else f"U+{ord(c):04X}"


def _tables(board: Board, group: Group) -> Iterator[str]:
    """A group's metrics, in as many tables as their width needs."""
    columns = [_column(group, metric) for metric in group.metrics]
    rows = (*group.baselines, *group.rows)
    names = min(max(len(text.clean(row.label)) for row in rows), _LABEL)
    parts = _dealt([max(map(_width, column)) + 2 for column in columns], WIDTH - names - 12)
    for place, part in enumerate(parts):
        of = f" ({place + 1} of {len(parts)})" if len(parts) > 1 else ""
        yield _table(_caption(board, group, of), group, [columns[k] for k in part], names)


def _dealt(widths: Sequence[int], room: int) -> list[list[int]]:
    """Indices of the columns, in order, split into parts that fit; at least one column in each."""
    parts: list[list[int]] = [[]]
    for k, width in enumerate(widths):
        if parts[-1] and sum(widths[i] for i in parts[-1]) + width > room:
            parts.append([])
        parts[-1].append(k)
    return parts


def _width(cell: str) -> int:
    return max(map(len, cell.split("\n")))


def _column(group: Group, metric: MetricInfo) -> list[str]:
    """Head and values of a metric, unescaped; a head has two lines, or three if the metric has parameters."""
    line = entries.header(metric)
    name, *rest = (piece if isinstance(piece, str) else text.clean(piece.text, 60) for piece in line)
    head = "\n".join(filter(None, (*name.replace("[", "\n[").split("\n"), "".join(rest).strip())))
    places = entries.decimals(group, metric)
    rows = (*group.baselines, *group.rows)
    return [head, *(entries.value(row.estimates.get(metric.name), metric, places) for row in rows)]


def _caption(board: Board, group: Group, of: str) -> str:
    primary = f", ranked by {escape(group.primary.name)}" if group.primary and group.pairs is not None else ""
    return (
        f"{escape(board.title)}{of}: {escape(group.task)}, {escape(group.student)} taught by {escape(group.teacher)}"
        f"{primary}; {group.examples} examples. Means with 95{{\\,}}\\% intervals."
    )


def _table(caption: str, group: Group, columns: Sequence[Sequence[str]], names: int) -> str:
    rows = (*group.baselines, *group.rows)
    heads, *values = zip(*columns, strict=True) if columns else [(), *(() for _ in rows)]
    lines = [
        _line([entries.rank(row), _label(row), *map(escape, cells), entries.seeds(row)])
        for row, cells in zip(rows, values, strict=True)
    ]
    first = len(group.baselines)
    dagger = _SPECIAL["\N{DAGGER}"]
    if any("\N{DAGGER}" in cell for cells in values for cell in cells):
        caption += f" {dagger} A single record: the interval covers examples only."
    between = [r"\midrule"] if group.baselines and group.rows else []
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            r"\smallskip",
            r"\small",
            r"\setlength{\tabcolsep}{4pt}",
            f"\\begin{{tabular}}{{rp{{{names / 2:g}em}}{'r' * (len(columns) + 1)}}}",
            r"\toprule",
            _line(["", "Method", *map(_head, heads), "Seeds"]),
            r"\midrule",
            *lines[:first],
            *between,
            *lines[first:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _head(cell: str) -> str:
    """The lines of a head above one another."""
    lines = r"\\".join(map(escape, cell.split("\n")))
    return rf"\begin{{tabular}}[b]{{@{{}}r@{{}}}}{lines}\end{{tabular}}"


def _label(row: Row) -> str:
    """The name of a method, which may break after a comma."""
    return r"\raggedright " + escape(row.label).replace("{,}", r"{,}\hspace{0pt}")


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
