"""Options that several commands share."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import platformdirs

if TYPE_CHECKING:
    from plad_bench.execute.store import Store

F = TypeVar("F", bound=Callable[..., Any])


def store_option(function: F) -> F:
    """--store, from PLAD_BENCH_STORE if not given."""
    return click.option(
        "--store",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PLAD_BENCH_STORE",
        default=lambda: Path(platformdirs.user_cache_dir("plad-bench")),
        show_default="the user's cache directory",
        help="Where artifacts are kept and shared between runs.",
    )(function)


def boards_option(function: F) -> F:
    """--boards-dir, from PLAD_BENCH_BOARDS_DIR if not given."""
    return click.option(
        "--boards-dir",
        type=click.Path(file_okay=False, path_type=Path),
        envvar="PLAD_BENCH_BOARDS_DIR",
        default=Path("leaderboards"),
        show_default=True,
        help="Where boards lie.",
    )(function)


def json_option(function: F) -> F:
    """--json."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(function)


def config_option(function: F) -> F:
    """--config FILE: a TOML file whose keys are the option names."""

    def apply(ctx: click.Context, parameter: click.Parameter, value: Path | None) -> Path | None:
        if value is None:
            return None
        try:
            data = tomllib.loads(value.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise click.BadParameter(f"{value.name}: {error}", ctx, parameter) from None
        known = {option.lstrip("-"): p.name for p in ctx.command.params for option in p.opts if option.startswith("--")}
        from plad_bench.contract.registry import near_matches, suggestion

        for key in data:
            if key not in known or key == "config":
                names = sorted(set(known) - {"config"})
                raise click.BadParameter(
                    f"{value.name}: no option {key!r}. {suggestion(near_matches(key, names), names)}"
                )
        joined = {known[k]: ",".join(map(str, v)) if isinstance(v, list) else v for k, v in data.items()}
        ctx.default_map = {**(ctx.default_map or {}), **joined}
        return value

    return click.option(
        "--config",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        is_eager=True,
        callback=apply,
        help="A TOML file whose keys are option names.",
    )(function)


def echo_json(value: Any) -> None:
    """Print a value as JSON."""
    click.echo(json.dumps(value, indent=2, ensure_ascii=False, sort_keys=True))


def open_store(root: Path, shipped: Sequence[Path] = ()) -> Store:
    """The store at a place."""
    from plad_bench.execute.store import Store

    return Store(root.expanduser().resolve(), shipped)
