"""`compare`: the paired difference between two methods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.board_lookup import find_boards
from plad_bench.cli.options import boards_option, echo_json, json_option
from plad_bench.contract.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from plad_bench.leaderboard.compare import Comparison, Side
    from plad_bench.records.validation import LoadedRecord


@click.command(short_help="Compare two methods, paired by seed and example.")
@click.argument("a")
@click.argument("b")
@click.option(
    "--board", help="Board of both methods, unless written BOARD:METHOD. Optional if there is only one board."
)
@click.option(
    "--metric", "metrics", multiple=True, help="Metric to compare; repeatable.  [default: the one that ranks]"
)
@click.option("--task", help="Compare on this task only, as the board names it.")
@click.option("--fail-if-worse", is_flag=True, help="Exit 1 if A is significantly worse than B in any comparison.")
@boards_option
@json_option
def compare(
    a: str,
    b: str,
    *,
    board: str | None,
    metrics: tuple[str, ...],
    task: str | None,
    boards_dir: Path,
    fail_if_worse: bool,
    as_json: bool,
) -> int:
    """Compare method A with method B: the difference A - B, paired by seed and example.

    A and B are row labels of a board, including baselines, such as 'kd[data=teacher]', or BOARD:METHOD to compare
    across boards. They are compared on their common seeds, for every task, teacher and student that both ran on. p
    (Holm) is adjusted over the comparisons of this command only. Methods that were evaluated on different examples
    cannot be compared.
    """
    from plad_bench.leaderboard import compare as paired
    from plad_bench.records.text import clean

    sides = [paired.side(*_place(text, board, boards_dir)) for text in (a, b)]
    left_out = {f"{of.board}/cells/{problem.file}": problem.reason for of in sides for problem in of.problems}

    def complain(cell: LoadedRecord, reason: str) -> None:
        left_out[cell.file] = reason

    try:
        compared = paired.compare(sides[0], sides[1], tuple(dict.fromkeys(metrics)), complain, task)
    finally:
        for file, reason in sorted(left_out.items()):
            click.echo(f"left out: {clean(file)}: {clean(reason)}", err=True)
    if fail_if_worse and (undirected := [c.metric.name for c in compared if c.metric.better is None]):
        raise UsageError(
            f"{undirected[0]} has no better direction, so neither method is worse", "Name another metric with --metric."
        )
    protocols = paired.protocols(*sides)
    if as_json:
        echo_json(
            {
                **{name: {"board": of.board, "method": of.label} for name, of in zip("ab", sides, strict=True)},
                "comparisons": [_plain(one) for one in compared],
                "left_out": left_out,
                "protocol": {name: dict(zip("ab", values, strict=True)) for name, values in protocols.items()},
            }
        )
    else:
        _print(sides, compared)
        for name, (ours, theirs) in protocols.items():
            click.echo(f"note: the protocols differ: {clean(name)} is {clean(ours)} and {clean(theirs)}", err=True)
    return ExitCode.FAILED if fail_if_worse and any(c.verdict == "worse" for c in compared) else ExitCode.OK


def _place(text: str, board: str | None, boards_dir: Path) -> tuple[Path, str]:
    """The directory of a board, and the label of a method on it."""
    before, colon, label = text.partition(":")
    if colon and (boards_dir / before / "board.toml").is_file():
        return boards_dir / before, label
    found = find_boards([board] if board else [], boards_dir)
    if len(found) > 1:
        raise UsageError(f"{len(found)} boards are in {boards_dir}: {', '.join(found)}", "Choose one with --board.")
    return next(iter(found.values())), text


def _plain(one: Comparison) -> dict[str, Any]:
    numbers = ("a", "b", "difference", "low", "high", "p", "p_holm", "minimum")
    values = {name: getattr(one, name) for name in numbers}
    return {
        "task": one.task,
        "teacher": one.teacher,
        "student": one.student,
        "metric": one.metric.name,
        "unit": one.metric.unit,
        "better": one.metric.better,
        **{name: value if math.isfinite(value) else None for name, value in values.items()},
        "seeds": one.seeds,
        "examples": one.examples,
        "verdict": one.verdict,
    }


def _print(sides: Sequence[Side], compared: Sequence[Comparison]) -> None:
    from plad_bench.records.text import clean

    across = sides[0].board != sides[1].board
    names = [clean(f"{of.board}:{of.label}" if across else of.label) for of in sides]
    for place in dict.fromkeys((c.task, c.teacher, c.student, c.seeds, c.examples) for c in compared):
        task, teacher, student, seeds, examples = place
        rows = [c for c in compared if (c.task, c.teacher, c.student, c.seeds, c.examples) == place]
        counted = "one seed" if seeds == 1 else f"{seeds} seeds"
        over = "paired by example alone" if seeds == 1 else "paired by seed and example"
        click.echo(clean(f"{task}: {student} taught by {teacher}; {counted}, {examples} examples, {over}"))
        head = ["metric", *names, "difference", "95 % interval", "p (Holm)", "MDE", f"{names[0]} is"]
        click.echo(_aligned([head, *map(_row, rows)]))


def _row(one: Comparison) -> list[str]:
    from plad_bench.records import text

    metric, half = one.metric, (one.high - one.low) / 2
    places = text.decimals_for([metric.scale * half])

    def shown(value: float) -> str:
        return text.number(metric.scale * value, places)

    unit = f" ({metric.unit})" if metric.unit else ""
    arrow = {"higher": " ↑", "lower": " ↓"}.get(metric.better or "", "")
    return [
        text.clean(f"{metric.name}{unit}{arrow}"),
        shown(one.a),
        shown(one.b),
        shown(one.difference),
        f"{shown(one.low)} to {shown(one.high)}",
        text.p(one.p_holm),
        shown(one.minimum),
        one.verdict,
    ]


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """Align rows in columns: the first column to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = (
        [cells[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))]
        for cells in rows
    )
    return "\n".join("  ".join(line).rstrip() for line in lines)
