"""Options that several commands share."""

from __future__ import annotations

import json
import math
import re
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import platformdirs

from plad_bench.contract.renamed import SETTINGS

if TYPE_CHECKING:
    from plad_bench.execute.store import Store

EMPTY = "give it a value, or leave it out"
"""Remedy for an empty value."""

F = TypeVar("F", bound=Callable[..., Any])


class Number(click.FloatRange):
    """A finite number in a range; `nan` and `inf` are refused."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = click.FLOAT.convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value} is not a finite number.", param, ctx)
        return super().convert(number, param, ctx)


def store_option(function: F) -> F:
    """Add --store; the default comes from PLAD_BENCH_STORE."""
    return click.option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PLAD_BENCH_STORE",
        default=lambda: Path(platformdirs.user_cache_dir("plad-bench")),
        show_default="the user's cache directory",
        help="Directory of the artifact store, which runs share.",
    )(function)


def boards_option(function: F) -> F:
    """Add --boards-dir; the default comes from PLAD_BENCH_BOARDS_DIR."""
    return click.option(
        "--boards-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PLAD_BENCH_BOARDS_DIR",
        default=Path("leaderboards"),
        show_default=True,
        help="Directory of the boards.",
    )(function)


def json_option(function: F) -> F:
    """Add --json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def config_option(function: F) -> F:
    """Add --config FILE, a TOML file with option names as keys."""

    def apply(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            data = tomllib.loads(value.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise click.BadParameter(f"{value.name}: {error}", ctx, parameter) from None
        known = {option.lstrip("-"): p for p in ctx.command.params for option in p.opts if option.startswith("--")}
        from plad_bench.contract.suggestions import near_matches, suggestion

        for key in data:
            if key not in known or key == "config":
                names = sorted(set(known) - {"config"})
                raise click.BadParameter(
                    f"{value.name}: no option {key!r}. {suggestion(near_matches(key, names), names)}"
                )
        values = {}
        for key, given in data.items():
            try:
                values[known[key].name or ""] = _as_typed(known[key], given)
            except ValueError as error:
                raise click.BadParameter(f"{value.name}: {key}: {error}", ctx, parameter) from None
        ctx.default_map = {**(ctx.default_map or {}), **values}
        return value

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        callback=apply,
        help="TOML file with option names as keys.",
    )(function)


def _as_typed(parameter: click.Parameter, value: Any) -> Any:
    """Convert a TOML value to the text that the command line would contain. Raises ValueError."""
    if isinstance(parameter, click.Option) and parameter.is_flag:
        if isinstance(value, bool):
            return value
        msg = "expected true or false"
        raise ValueError(msg)
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, bool) or not isinstance(item, str | int | float) for item in items):
        msg = "expected a string, a number, or a list of these"
        raise ValueError(msg)
    text = ",".join(map(str, items))
    if not text.strip():
        msg = EMPTY
        raise ValueError(msg)
    return text


def refuse_empty(arguments: Sequence[str]) -> None:
    """Refuse empty arguments: no option accepts one, and an empty value must not silently become the default.

    Raises:
        UsageError: with the name of the option.
    """
    for before, argument in zip(["", *arguments], arguments, strict=False):
        option = re.fullmatch(r"(--[\w-]+)=\s*", argument)
        if option or not argument.strip():
            where = option[1] if option else before if before.startswith("-") else "an argument"
            raise click.UsageError(f"{where} is empty: {EMPTY}.")


def renamed(arguments: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Deprecated option names on a command line, each with its current name."""
    for argument in arguments:
        old = argument.partition("=")[0].removeprefix("--").replace("-", "_")
        if argument.startswith("--") and old in SETTINGS:
            yield f"--{old.replace('_', '-')}", f"--{SETTINGS[old].replace('_', '-')}"


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def open_store(root: Path, shipped: Sequence[Path] = ()) -> Store:
    """Open the store in a directory."""
    from plad_bench.execute.store import Store

    return Store(root.expanduser().resolve(), shipped)
