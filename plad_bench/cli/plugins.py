"""`plugins`: everything registered, by kind, and what is broken."""

from __future__ import annotations

from typing import Any

import click

from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import ExitCode

WIDE = 1000
"""Columns of a terminal in which nothing would have to be broken."""


@click.command(short_help="List everything registered.")
@click.argument("kind", required=False)
@json_option
@click.pass_context
def plugins(ctx: click.Context, /, kind: str | None, *, as_json: bool) -> int:
    """List everything registered, by kind, with its parameters and distribution; broken plugins with the cause.

    KIND limits the list to one kind: methods, metrics, tasks, students, teachers, pairs, launchers.
    """
    from plad_bench.contract.registry import KINDS
    from plad_bench.contract.suggestions import near_matches, suggestion

    registry = ctx.ensure_object(State).registry
    names = {k.replace("pair builder", "pair") + ("" if k.endswith("s") else "s"): k for k in KINDS}
    if kind is not None and kind not in names:
        raise click.UsageError(f"no kind {kind!r}. {suggestion(near_matches(kind, names), names)}")
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
    """How the values of a metric are to be read, and what they cost; what a task's data may be used for."""
    if kind == "task":
        return {"dataset": of.dataset, "licence": of.licence, "redistributable": of.redistributable}
    if kind == "metric":
        return {"better": of.better, "unit": of.unit, "needs": sorted(of.needs), "cost": of.cost}
    return {}


def _what(row: dict[str, Any]) -> str:
    """The summary and, of a metric, its facts; of a task, the licence of its data."""
    if "licence" in row:
        return f"{row['summary']} Licence of the data: {row['licence']}."
    if "better" not in row:
        return str(row["summary"])
    facts = [f"{row['better']} is better" if row["better"] else "never ranked", row["unit"]]
    needs = f"needs {' and '.join(row['needs'])}" if row["needs"] else ""
    return f"{row['summary']} ({', '.join(filter(None, [*facts, needs, row['cost']]))})"


def _line(row: dict[str, Any]) -> list[str]:
    """The texts of a component's columns."""
    conflict = " (conflict)" if row["conflict"] else ""
    # A method's rate of 0 is that of the board, and says nothing.
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
        for head, width in zip(columns, widths, strict=True):  # no name of a model or parameter is broken
            table.add_column(head, overflow="fold", min_width=width, no_wrap=head == "name")
        for name, *others in lines:
            table.add_row(Text(name, style="bold"), *map(Text, others))
        wide = max(console.width, table.__rich_measure__(console, console.options.update(width=WIDE)).minimum)
        with console.capture() as captured:
            console.print(table, width=wide, crop=False, no_wrap=True)
        click.echo("\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n")
    for item in broken:
        console.print(Text(f"broken: {item['distribution']} ({item['plugin']}): {item['cause']}", style="red"))
