"""`check-plugin`: holds a plugin, and everything that it registers, against what the harness expects."""

from __future__ import annotations

import os
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from plad_bench.cli.options import echo_json, json_option
from plad_bench.contract import api
from plad_bench.contract.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from plad_bench.contract.registry import Registry

_COLOURS = {"ok": "green", "unknown": "cyan", "warning": "yellow", "failed": "red"}


@click.command("check-plugin", short_help="Hold a plugin against what the harness expects.")
@click.argument("target", metavar="NAME|PATH")
@json_option
def check_plugin(target: str, *, as_json: bool) -> int:
    """Check a plugin: an installed one by its name or its distribution's, a Python file, or the directory of a package.

    It is loaded and asked twice; each method's loss is evaluated on random tensors, each metric on a few texts, the
    first examples of each task are read. Nothing is trained and no model is downloaded. Exit code 1 if something
    does not hold, 4 if the plugin cannot be loaded; a warning is no failure.
    """
    from plad_bench.conformance.plugins import check

    with _imports_undone():
        registry, names = _load(target)
        found = check(registry, names)
    rows = [{"kind": one.kind, "name": one.name, **asdict(one.verdict)} for one in found]
    if as_json:
        echo_json({"plugins": sorted(names), "checks": rows})
    else:
        _print(rows)
    if any(b.origin.plugin in names for b in registry.broken):
        return ExitCode.PLUGIN
    return ExitCode.FAILED if any(row["level"] == "failed" for row in rows) else ExitCode.OK


@contextmanager
def _imports_undone() -> Iterator[None]:
    """Leave the import path as it was, and nothing imported from what was on it in between."""
    before = list(sys.path)
    try:
        yield
    finally:
        added = tuple(f"{place}{os.sep}" for place in sys.path if place not in before)
        sys.path[:] = before
        for name, module in list(sys.modules.items()):
            if added and (getattr(module, "__file__", None) or "").startswith(added):
                del sys.modules[name]


def _load(target: str) -> tuple[Registry, set[str]]:
    """A registry with the plugins of a target in it, and their names."""
    from plad_bench.contract.registry import Origin, Registry
    from plad_bench.contract.suggestions import near_matches, suggestion

    path = Path(target).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"no file {path}", "Give a plugin file, the directory of a package, or a name.")
        return Registry.load([path]), {path.stem}
    registry = Registry.load()
    if (path / "pyproject.toml").is_file():
        declared = _declared(path)
        sys.path[:0] = [str(path.resolve()), str((path / "src").resolve())]
        for name, module in declared.items():
            if name not in {origin.plugin for origin in registry.origins.values()}:
                registry.add(
                    Origin(name, f"{path.resolve().name}, not installed", editable=True), partial(_import, module)
                )
        return registry, set(declared)
    origins = [*registry.origins.values(), *(b.origin for b in registry.broken)]
    names = {o.plugin for o in origins if target in {o.plugin, o.distribution.split()[0]}}
    if not names:
        known = sorted({o.plugin for o in origins})
        raise UsageError(
            f"no plugin {target!r}, and no such file or package", suggestion(near_matches(target, known), known)
        )
    return registry, names


def _import(module: str) -> Any:
    api.check_module(module)
    return import_module(module)


def _declared(directory: Path) -> dict[str, str]:
    """Entry points of plad-bench that a package declares: name -> module."""
    from plad_bench.contract.registry import GROUP

    file = directory / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise UsageError(f"{file} cannot be read: {error}", "Repair it.") from None
    declared: dict[str, str] = project.get("entry-points", {}).get(GROUP, {})
    if not declared:
        raise UsageError(f"{file} declares no plugin", f'Add [project.entry-points.{GROUP}] with NAME = "MODULE".')
    return declared


def _print(rows: list[dict[str, str]]) -> None:
    for kind, name in dict.fromkeys((row["kind"], row["name"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["name"]) == (kind, name)]
        good = sum(row["level"] == "ok" for row in own)
        click.echo(f"{kind} {name}: {good} of {len(own)} hold")
        for row in own:
            if row["level"] != "ok":
                level = click.style(f"{row['level']:<8}", fg=_COLOURS[row["level"]])
                click.echo(f"  {level} {row['claim']}: {row['problem']}")
                if row["remedy"]:
                    click.echo(f"           {row['remedy']}")
    if not rows:
        click.echo("Its hooks register no component, so there is nothing to check.", err=True)
