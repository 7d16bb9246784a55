"""A board as one HTML file without external resources. The same records give the same bytes.

The templates escape every value. The Content-Security-Policy allows the page's own style and script by their hashes, so
that nothing else could run or be fetched even if a value became markup.
"""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import quote

from markupsafe import Markup, escape

from plad_bench.contract.names import UNLISTED
from plad_bench.leaderboard.board import Board, Group
from plad_bench.records import text
from plad_bench.render import entries, origin, overview, page_model, plot_layout, plots
from plad_bench.render.answer import answer
from plad_bench.render.pieces import Line, Link, Name, Said, Section, Strong
from plad_bench.render.templating import draw, source

MADE = '<meta name="generator" content="plad-bench">'
"""In the head of every page, by which `leaderboard` knows that it may overwrite the file."""
SHORT = {
    "ranking": "Ranking",
    "methods": "Methods",
    "metrics": "All metrics",
    "sampled": "Sampled responses",
    "tuning": "Tuning",
    "during": "During training",
    "cost": "Cost",
    "pairs": "Comparisons",
    "unranked": "Not ranked",
    "absent": "Not measured",
}
"""Names of the parts of a group in the list of links."""


@dataclass(frozen=True)
class SampleView:
    """A prompt and the responses to it: (label, access, score, text) of each row that has a sample."""

    prompt: str
    reference: str
    outputs: tuple[tuple[str, str, str, str], ...]


@dataclass(frozen=True)
class Part:
    """A group as the template lays it out."""

    group: Group
    answer: Line
    setting: Line
    sections: tuple[Section, ...]
    tiers: tuple[tuple[str, int], ...]
    """Teacher access with the number of methods that need it, in the order of the tiers."""
    plots: tuple[Any, ...]
    """Each plot as it is drawn for a wide page and for a phone."""
    samples: tuple[SampleView, ...]
    more_samples: Line


def render(board: Board, sections: Sequence[str] = ()) -> str:
    """The page of a board; `sections` of plugins are shown as plain text."""
    return _page(
        "board.html.j2",
        title=text.clean(board.title),
        listed=board.name not in UNLISTED,
        script=_script(),
        notes=text.clean(board.settings.notes, 2000),
        overview=list(overview.sections(board)),
        sizes=[_drawn([plots.sizes(of, size) for size in _SIZES]) for of in overview.size_series(board)],
        parts=[_part(board, group) for group in board.groups],
        left_out=list(origin.left_out(board)),
        sections=[text.printable(section).strip() for section in sections if section.strip()],
        commands=origin.commands(board),
        origin=origin.origin(board),
        short=SHORT,
        name=lambda words: text.clean(words, 120),
    )


def render_index(title: str, sections: Iterable[Section]) -> str:
    """The page over several boards."""
    return _page("index.html.j2", title=title, script=_script(), sections=list(sections))


# ------------------------------------------------------------------------------------------------------------ parts


def _part(board: Board, group: Group) -> Part:
    counts: dict[str, int] = {}
    for row in group.rows:
        counts[entries.access(row)] = counts.get(entries.access(row), 0) + 1
    drawn = [[draw(group, size) for size in _SIZES] for _, _, draw in plots.ALL]
    return Part(
        group=group,
        answer=answer(group),
        setting=page_model.setting(group),
        sections=tuple(page_model.sections(group, board.settings.docs)),
        tiers=tuple((access, counts[access]) for access in sorted(counts, key=_tier)),
        plots=tuple(_drawn(of) for of in drawn if any(of)),
        samples=_samples(group),
        more_samples=page_model.more_samples(board, group),
    )


_SIZES = (plot_layout.WIDE, plot_layout.NARROW)


def _drawn(of: Iterable[str | None]) -> Markup:
    """A plot in each size."""
    return Markup("".join(filter(None, of)))  # noqa: S704  our template escaped it


def _tier(access: str) -> tuple[int, str]:
    from plad_bench.contract.enums import Access

    known = [tier.value for tier in Access]
    return (known.index(access) if access in known else len(known), access)


def _samples(group: Group) -> tuple[SampleView, ...]:
    rows = [*group.baselines, *group.rows]
    metric = group.primary

    def score(value: float | None) -> str:
        if value is None or metric is None:
            return ""
        unit = f" {text.clean(metric.unit, 20)}" if metric.unit else ""
        return f"{text.clean(metric.name, 60)} {text.number(metric.scale * value, 1)}{unit}"

    return tuple(
        SampleView(
            text.printable(shown.prompt),
            text.printable(shown.reference),
            tuple(
                (text.clean(row.label, 120), entries.access(row), score(output.score), text.printable(output.text))
                for row, output in zip(rows, shown.outputs, strict=False)
                if output is not None
            ),
        )
        for shown in group.samples
    )


# --------------------------------------------------------------------------------------------------------- the page


def _page(template: str, *, script: Any, **values: Any) -> str:
    style = _style()
    policy = (
        f"default-src 'none'; style-src {_hash(style)}; script-src {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    return draw(template, style=style, script=script, policy=policy, line=_line, named=_named, key=_key, **values)


def _line(line: Line) -> Markup:
    return Markup().join(map(_piece, line))


def _piece(piece: str | Name | Said | Strong | Link) -> Markup:
    match piece:
        case Name(words, url, limit):
            named = _named(text.clean(words, limit))
            return Markup('<a href="{}">{}</a>').format(url, named) if url else named
        case Said(words, limit):
            return escape(text.clean(words, limit))
        case Strong(words):
            return Markup("<strong>{}</strong>").format(words)
        case Link(words, folder):
            return Markup('<a href="{}/index.html">{}</a>').format(quote(folder), text.clean(words, 120))
    return escape(re.sub(" (?=[↑↓])", "\N{NO-BREAK SPACE}", piece))


def _named(words: str) -> Markup:
    """A name, which may break after a comma."""
    return Markup("<code>{}</code>").format(escape(words).replace(",", Markup(",<wbr>")))


def _key(number: float | None) -> str:
    """The value that a cell is sorted by; empty if it has no number."""
    return f"{text.rounded(number):.10g}" if number is not None and math.isfinite(number) else ""


@cache
def _style() -> Markup:
    return Markup(source("page.css") + draw("plot.css.j2"))  # noqa: S704  files of ours, as they are


@cache
def _script() -> Markup:
    return Markup(source("page.js"))  # noqa: S704  a file of ours, as it is


def _hash(code: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()}'"
