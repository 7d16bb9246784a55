"""`plugins`: lists all components by kind, and broken plugins."""

from __future__ import annotations

from typing import Any

import click

from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode

WIDE = 1000
"""Table width at which no line wraps."""


@click.command(short_help="List all components.")
@click.argument("kind", required=False)
@json_option
@click.pass_context
def plugins(ctx: click.Context, /, kind: str | None, *, as_json: bool) -> int:
    """List all components by kind, with parameters and distribution, and broken plugins with the cause.

    KIND restricts the list: methods, metrics, tasks, students, teachers, pairs or launchers.
    """
    from plad_bench.contract.registry import KINDS
    from plad_bench.contract.suggestions import near_matches, suggestion

    registry = ctx.ensure_object(State).registry
    names = {k.replace("pair builder", "pair") + ("" if k.endswith("s") else "s"): k for k in KINDS}
    if kind is not None and kind not in names:
        raise click.UsageError(f"unknown kind {kind!r}. {suggestion(near_matches(kind, names), names)}")
    wanted = [names[kind]] if kind else list(KINDS)
    listed: dict[str, list[dict[str, Any]]] = {k: _rows(registry, k) for k in wanted}
    broken = [
        {"plugin": b.origin.plugin, "distribution": b.origin.distribution, "cause": b.cause} for b in registry.broken
    ]
    if as_json:
        echo_json({"components": listed, "broken": broken})
    else:
        _print(listed, broken)
    return ExitCode.PLUGIN if broken else ExitCode.OK


def _rows(registry: Any, kind: str) -> list[dict[str, Any]]:
    rows = []
    for found in registry.components(kind).values():
        for registered in found:
            component = registered.component
            fields = component.params.model_fields
            rows.append(
                {
                    "name": component.name,
                    "summary": component.summary,
                    "version": component.version,
                    "params": {name: str(info.get_default(call_default_factory=True)) for name, info in fields.items()},
                    "distribution": registered.origin.distribution,
                    "conflict": len(found) > 1,
                    **_facts(kind, component),
                }
            )
    return rows


def _facts(kind: str, of: Any) -> dict[str, Any]:
    """Direction, unit, inputs and cost of a metric; data set and licence of a task."""
    if kind == "task":
        return {"dataset": of.dataset, "licence": of.licence, "redistributable": of.redistributable}
    if kind == "metric":
        return {"better": of.better, "unit": of.unit, "needs": sorted(of.needs), "cost": of.cost}
    return {}


def _what(row: dict[str, Any]) -> str:
    """The summary, with a metric's facts or the licence of a task's data."""
    if "licence" in row:
        return f"{row['summary']} Licence of the data: {row['licence']}."
    if "better" not in row:
        return str(row["summary"])
    facts = [f"{row['better']} is better" if row["better"] else "not ranked", row["unit"]]
    needs = f"needs {' and '.join(row['needs'])}" if row["needs"] else ""
    return f"{row['summary']} ({', '.join(filter(None, [*facts, needs, row['cost']]))})"


def _line(row: dict[str, Any]) -> list[str]:
    """The cells of a component's table row."""
    conflict = " (conflict)" if row["conflict"] else ""
    # A method's learning rate of 0 means the board's, and is not shown.
    params = {name: value for name, value in row["params"].items() if (name, value) != ("lr", "0.0")}
    shown = " ".join(f"{name}={value}" for name, value in params.items())
    return [row["name"] + conflict, _what(row), shown, row["distribution"]]


def _print(listed: dict[str, list[dict[str, Any]]], broken: list[dict[str, str]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console()
    for kind, rows in listed.items():
        if not rows:
            continue
        origins = {row["distribution"] for row in rows}
        title = Text(f"{kind}s, from {origins.pop()}" if len(origins) == 1 else f"{kind}s", style="bold")
        columns = ("name", "what", "parameters", *(["from"] if origins else []))
        lines = [_line(row)[: len(columns)] for row in rows]
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="dim")
        widths = [
            max(len(word) for line in lines for word in [*line[n].split(), head]) for n, head in enumerate(columns)
        ]
        for head, width in zip(columns, widths, strict=True):  # names of models and parameters do not wrap
            table.add_column(head, overflow="fold", min_width=width, no_wrap=head == "name")
        for name, *others in lines:
            table.add_row(Text(name, style="bold"), *map(Text, others))
        wide = max(console.width, table.__rich_measure__(console, console.options.update(width=WIDE)).minimum)
        with console.capture() as captured:
            console.print(table, width=wide, crop=False, no_wrap=True)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
    for item in broken:
        console.print(Text(f"broken: {item['distribution']} ({item['plugin']}): {item['cause']}", style="red"))
