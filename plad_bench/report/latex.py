"""The ranked tables of a board for a paper: LaTeX with the package booktabs, whatever a record holds escaped."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from plad_bench.report import content, text
from plad_bench.report.board import Board, Group, MetricInfo, Row

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


def render(board: Board) -> str:
    """A booktabs table for each group of a board that has rows."""
    tables = [_table(board, group) for group in board.groups if group.rows or group.references]
    return "\n".join(["% Needs \\usepackage{booktabs} and \\usepackage[T1]{fontenc}.", *(tables or [""])])


def escape(value: object, limit: int = 200) -> str:
    """Text for any place within a line: it stays text, and a character that LaTeX may not have is spelt U+XXXX."""
    return "".join(_character(c) for c in text.clean(value, limit))


def _character(c: str) -> str:
    if c in _SPECIAL:
        return _SPECIAL[c]
    latin = c.isascii() or (c.isalpha() and ord(c) < 0x180 and len(unicodedata.normalize("NFD", c)) > 1)
    return c if latin else f"U+{ord(c):04X}"


def _table(board: Board, group: Group) -> str:
    places = {metric.name: content.decimals(group, metric) for metric in group.metrics}
    head = ["", "Method", *map(_header, group.metrics), "Seeds"]
    rows = [_line(_cells(group, row, places)) for row in group.rows]
    references = [_line(_cells(group, row, places)) for row in group.references]
    primary = f", ranked by {escape(group.primary.name)}" if group.primary and group.pairs is not None else ""
    caption = (
        f"{escape(board.title)}: {escape(group.task)}, {escape(group.student)} taught by {escape(group.teacher)}"
        f"{primary}; {group.examples} examples. Means with 95{{\\,}}\\% intervals."
    )
    dagger = _SPECIAL["\N{DAGGER}"]
    if any(dagger in line for line in (*rows, *references)):
        caption += f" {dagger} One record: over examples only."
    body = [*references, *([r"\midrule"] if references and rows else []), *rows]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            f"\\caption{{{caption}}}",
            f"\\begin{{tabular}}{{rl{'r' * (len(group.metrics) + 1)}}}",
            r"\toprule",
            _line(head),
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def _header(metric: MetricInfo) -> str:
    line = content.header(metric)
    return escape("".join(piece if isinstance(piece, str) else text.clean(piece.text, 60) for piece in line))


def _cells(group: Group, row: Row, places: dict[str, int]) -> list[str]:
    values = [content.value(row.estimates.get(m.name), m, places[m.name]) for m in group.metrics]
    return [str(row.rank or ""), escape(row.label), *map(escape, values), content.seeds(row)]


def _line(cells: Sequence[str]) -> str:
    return " & ".join(cells) + r" \\"
