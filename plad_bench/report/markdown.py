"""A board as a page of GitHub markdown: a pure function of the board, so that the same records give the same bytes.

Whatever comes from a record passes through `escape` or `code` (report/text.py) and can't become markup.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import Any

from plad_bench.report import text
from plad_bench.report.board import Board, Group, MetricInfo, Row
from plad_bench.report.stats import EXAMPLES_ONLY, LEVEL, Estimate
from plad_bench.report.text import NONE, code, escape

ALL_PAIRS = 12
"""Methods up to which every pair is listed; beyond, each is compared with the first alone."""

_FACTS = {
    "steps": "{} steps",
    "batch": "batches of {} prompts",
    "warmup_steps": "warm start of {} steps",
    "max_new_tokens": "greedy decoding of at most {} tokens",
    "precision": "{}",
    "split": "{} split",
    "teach_temperature": "teacher text at temperature {}",
    "sample_temperature": "student samples at temperature {}",
    "top_k": "top-k {}",
}
"""How the conditions of a protocol read; others read "name value"."""
_ELSEWHERE = {"lr", "warmup_lr", "limit"}


def render(board: Board, plots: Mapping[tuple[int, str], str] | None = None, sections: Sequence[str] = ()) -> str:
    """The page of a board.

    Args:
        board: what to show.
        plots: (index of a group, title of the plot) -> the path of its SVG, relative to the page.
        sections: markdown of plugins, placed before "How to reproduce".
    """
    parts = [f"# {escape(board.title)}"]
    if board.settings.notes:
        parts.append(escape(board.settings.notes, 2000))
    if not board.groups:
        parts.append("No records yet.")
    several = len(board.groups) > 1
    for index, group in enumerate(board.groups):
        if several:
            parts.append(f"## {code(group.task)}: {code(group.teacher)} to {code(group.student)}")
        images = [(title, path) for (of, title), path in (plots or {}).items() if of == index]
        parts += _group(group, "###" if several else "##", images)
    if board.problems:
        left_out = table(["File", "Reason"], [[code(p.file), escape(p.reason)] for p in board.problems], "ll")
        parts += [f"## Files left out ({len(board.problems)})", "No number above rests on these.", left_out]
    parts += [section.strip() for section in sections if section.strip()]
    parts += _reproduce(board)
    return "\n\n".join(parts) + "\n"


def _group(group: Group, level: str, images: Iterable[tuple[str, str]]) -> list[str]:
    parts = [setting(group)]
    places = {metric.name: decimals(group, metric) for metric in group.metrics}
    columns = [header(metric) for metric in group.metrics]

    def values(row: Row) -> list[str]:
        return [value(row.estimates.get(metric.name), metric, places[metric.name]) for metric in group.metrics]

    if group.references:
        body = [[code(row.label), *values(row), seeds(row)] for row in group.references]
        parts += [
            f"{level} Reference rows, not ranked",
            table(["", *columns, "Seeds"], body, "l" + "r" * len(columns) + "r"),
        ]
    if group.rows:
        ranked = group.pairs is not None
        title = f"Ranking by {header(group.primary)}" if ranked and group.primary else "Methods, not ranked"
        head = ["Rank", "Method", *columns, "Gap closed", "Teacher access", "Win-tie-loss", "Seeds"]
        body = [
            [
                str(row.rank or NONE),
                code(row.label),
                *values(row),
                _gap(row.gap),
                escape(row.access),
                "-".join(map(str, row.tally)) if ranked else NONE,
                seeds(row),
            ]
            for row in group.rows
        ]
        parts += [f"{level} {title}", table(head, body, "rl" + "r" * len(columns) + "rlrr"), _reading(group)]
        parts += [f"{level} Cost", *_costs(group)]
        if group.pairs is not None and len(group.rows) > 1:
            parts += [f"{level} Pairwise comparisons", *_pairwise(group)]
    else:
        parts.append("No method is complete, so none is ranked.")
    if group.unranked:
        body = [[code(u.label), escape(u.status), _list(u.seeds), escape(u.reason) or NONE] for u in group.unranked]
        parts += [
            f"{level} Incomplete, failed, skipped and trial cells",
            "Never ranked, never averaged.",
            table(["Method", "Status", "Seed", "Reason"], body, "llll"),
        ]
    if images := list(images):
        parts += [f"{level} Plots", *(f"![{escape(title)}]({path})" for title, path in images)]
    return parts


def setting(group: Group) -> str:
    """What a group was measured under, in one line."""
    protocol = group.protocol
    facts = [form.format(escape(protocol[key], 40)) for key, form in _FACTS.items() if key in protocol]
    facts += [
        f"{escape(key, 40)} {escape(value, 40)}"
        for key, value in sorted(protocol.items())
        if key not in _FACTS and key not in _ELSEWHERE
    ]
    asked = max((row.asked for row in (*group.rows, *group.references)), default=0)
    who = f"Task {code(group.task)}, teacher {code(group.teacher)}, student {code(group.student)}"
    data = f"{group.examples} examples, {asked} seed{'s' if asked != 1 else ''}"
    return f"{who}; {data}; {', '.join([*facts, *_rates(group)])}."


def _rates(group: Group) -> list[str]:
    """How learning rates were chosen, in words that claim no tuning that nobody did."""
    shared = sorted({row.lr for row in group.rows if row.lr_shared})
    own = [row for row in group.rows if not row.lr_shared]
    rates = []
    if shared:
        rates.append(f"untuned, shared lr {_list(f'{lr:g}' for lr in shared)}")
    if own:
        rates.append(f"own lr: {_list(f'{code(row.label)} {row.lr:g}' for row in own)}")
    return rates


def _reading(group: Group) -> str:
    rows = [*group.rows, *group.references]
    notes = ["Values are means with their 95 % interval, over seeds and examples."]
    if any(e.label == EXAMPLES_ONLY for row in rows for e in row.estimates.values()):
        notes.append("† A single record: the interval is over examples only.")
    if group.pairs is not None:
        notes.append(
            "Methods share a rank unless significantly worse than the best of the rank (paired by seed and example, "
            "Holm-adjusted). Win-tie-loss counts such tests against the other methods."
        )
        if any(row.gap for row in group.rows):
            notes.append(
                "Gap closed is (method - warm start) / (teacher - warm start), with Fieller's interval; it is a share "
                "of this metric's gap alone."
            )
        else:
            notes.append(
                "Gap closed is blank: warm start and teacher are not both there with all seeds, or the teacher is not "
                "significantly better."
            )
    if 1 < min(row.asked for row in rows) < 5:
        notes.append("Fewer than five seeds: the intervals are wide for good reason.")
    return "<sub>" + " ".join(notes) + "</sub>"


def _costs(group: Group) -> list[str]:
    head = [
        "Method",
        "Training",
        "Teacher, if alone",
        "Teacher, shared",
        "Tokens trained",
        "Tokens generated",
        "Peak memory",
    ]
    body = [
        [
            code(row.label),
            text.seconds(row.cost.train_seconds),
            text.seconds(row.cost.teacher_seconds),
            text.seconds(row.cost.teacher_share),
            text.amount(row.cost.tokens_trained),
            text.amount(row.cost.tokens_generated),
            text.size(row.cost.peak_memory),
        ]
        for row in group.rows
    ]
    note = (
        "<sub>Device time per cell. The teacher's is what the cell would need alone, and its share when divided among "
        "the cells that use the same outputs.</sub>"
    )
    return [table(head, body, "l" + "r" * 6), note]


def _pairwise(group: Group) -> list[str]:
    rows, pairs, metric = group.rows, group.pairs, group.primary
    assert pairs is not None and metric is not None  # noqa: S101, PT018
    scale, places = metric.scale, decimals(group, metric)
    every = len(rows) <= ALL_PAIRS
    chosen = combinations(range(len(rows)), 2) if every else ((0, k) for k in range(1, len(rows)))
    body = []
    for pair in chosen:
        i, k = pair if pairs.difference[pair] >= 0 else pair[::-1]
        found = pairs.p_holm[i, k] < 1 - LEVEL
        better, half, minimum = (
            text.number(scale * float(matrix[i, k]), places)
            for matrix in (pairs.difference, pairs.half_width, pairs.minimum)
        )
        verdict = "win" if found else "tie"
        p = _p(float(pairs.p_holm[i, k]))
        body.append([code(rows[i].label), code(rows[k].label), f"{better} ± {half}", p, verdict, minimum])
    unit = f" ({escape(metric.unit, 20)})" if metric.unit else ""
    head = ["Better", "Worse", f"By{unit}", "p (Holm)", "Verdict", "Detectable"]
    number = len(rows) * (len(rows) - 1) // 2
    note = (
        f"<sub>{'All pairs' if every else 'Each method against the best'}, by {escape(metric.name, 60)}. The interval "
        f"of a difference is not adjusted, p is (over all {number} pairs). Detectable: the true "
        "difference that one such comparison finds with a chance of 80 %; a tie says no more than that the difference "
        "is likely below it.</sub>"
    )
    return [table(head, body, "llrrlr"), note]


def _reproduce(board: Board) -> list[str]:
    parts = []
    commands = [text.clean(command, 1000) for command in board.commands]
    if commands:
        parts += ["## How to reproduce", "\n".join(f"    {command}" for command in commands)]
        if any("path=" in command for command in commands):
            parts.append("A path is shown by its last part alone: put in where that directory is on your machine.")
    if len(board.code) > 1:
        versions = _list(f"{code(version)} ({n} records)" for version, n in board.code.items())
        parts.append(f"**These records were made by different versions of the code:** {versions}.")
    elif board.code:
        parts.append(f"All {board.records} records were made by version {code(next(iter(board.code)))} of the code.")
    return parts


# ------------------------------------------------------------------------------------------------------------ cells


def table(head: Sequence[str], body: Iterable[Sequence[str]], align: str) -> str:
    """A markdown table of cells that are escaped already; `align` has an l or r per column."""
    rule = [{"l": ":--", "r": "--:"}[a] for a in align]
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *body))


def header(metric: MetricInfo) -> str:
    """Name, unit, and an arrow to what is better."""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.better or "", "")
    unit = f" ({escape(metric.unit, 20)})" if metric.unit else ""
    return f"{escape(metric.name, 60)}{unit}{arrow}"


def decimals(group: Group, metric: MetricInfo) -> int:
    """Decimals that suit a column."""
    rows = group.rows or group.references
    return text.decimals_for(
        metric.scale * e.half_width for row in rows if (e := row.estimates.get(metric.name)) is not None
    )


def value(estimate: Estimate | None, metric: MetricInfo, places: int) -> str:
    """A mean with the half width of its interval."""
    if estimate is None:
        return NONE
    mean = text.number(metric.scale * estimate.value, places)
    if not math.isfinite(estimate.half_width):
        return mean
    mark = " †" if estimate.label == EXAMPLES_ONLY else ""
    return f"{mean} ± {text.number(metric.scale * estimate.half_width, places)}{mark}"


def _gap(gap: Estimate | None) -> str:
    if gap is None:
        return NONE
    low, high = (text.number(100 * end, 0) if math.isfinite(end) else "∞" for end in (gap.low, gap.high))
    return f"{text.number(100 * gap.value, 0)} % ({low} to {high})"


def seeds(row: Row) -> str:
    """Seeds done of those asked, or that the row has no seed of its own."""
    return f"{len(row.seeds)}/{row.asked}" if len(row.cells) > 1 or row.asked == 1 else "fixed"


def _p(value: float) -> str:
    return escape(text.p(value))


def _list(items: Iterable[Any]) -> str:
    return ", ".join(map(str, items))
