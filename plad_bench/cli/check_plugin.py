"""`check-plugin`: checks a plugin, and everything that it registers, against the plugin contract."""

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


@click.command("check-plugin", short_help="Check that a plugin meets the plugin contract.")
@click.argument("target", metavar="NAME|PATH")
@json_option
def check_plugin(target: str, *, as_json: bool) -> int:
    """Check a plugin, given as an installed plugin or distribution, a Python file, or a package directory.

    The check calls the plugin's hooks twice, evaluates each method's loss on random tensors and each metric on a few
    texts, and reads the first examples of each task. It trains nothing and downloads no models. Exits with 1 if a check
    fails and with 4 if the plugin cannot be loaded; warnings do not affect the exit code.
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
    """Restore the import path, and forget the modules that were imported from paths added in between."""
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
    """A registry with the plugins of a target loaded, and the names of these plugins."""
    from plad_bench.contract.registry import PluginOrigin, Registry
    from plad_bench.contract.suggestions import near_matches, suggestion

    path = Path(target).expanduser()
    if path.suffix == ".py":
        if not path.is_file():
            raise UsageError(f"no file {path}", "Give a plugin file, a package directory, or a plugin name.")
        return Registry.load([path]), {path.stem}
    registry = Registry.load()
    if (path / "pyproject.toml").is_file():
        declared = _declared(path)
        sys.path[:0] = [str(path.resolve()), str((path / "src").resolve())]
        for name, module in declared.items():
            if name not in {origin.plugin for origin in registry.origins.values()}:
                registry.add(
                    PluginOrigin(name, f"{path.resolve().name}, not installed", editable=True), partial(_import, module)
                )
        return registry, set(declared)
    origins = [*registry.origins.values(), *(b.origin for b in registry.broken)]
    names = {o.plugin for o in origins if target in {o.plugin, o.distribution.split()[0]}}
    if not names:
        known = sorted({o.plugin for o in origins})
        raise UsageError(f"no plugin, file or package {target!r}", suggestion(near_matches(target, known), known))
    return registry, names


def _import(module: str) -> Any:
    api.check_module(module)
    return import_module(module)


def _declared(directory: Path) -> dict[str, str]:
    """The plad-bench entry points that a package declares: name -> module."""
    from plad_bench.contract.registry import GROUP

    file = directory / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {file}: {error}", "Fix the file.") from None
    declared: dict[str, str] = project.get("entry-points", {}).get(GROUP, {})
    if not declared:
        raise UsageError(f"{file} declares no plugin", f'Add [project.entry-points.{GROUP}] with NAME = "MODULE".')
    return declared


def _print(rows: list[dict[str, str]]) -> None:
    for kind, name in dict.fromkeys((row["kind"], row["name"]) for row in rows):
        own = [row for row in rows if (row["kind"], row["name"]) == (kind, name)]
        good = sum(row["level"] == "ok" for row in own)
        click.echo(f"{kind} {name}: {good} of {len(own)} checks passed")
        for row in own:
            if row["level"] != "ok":
                level = click.style(f"{row['level']:<8}", fg=_COLOURS[row["level"]])
                click.echo(f"  {level} {row['claim']}: {row['problem']}")
                if row["remedy"]:
                    click.echo(f"           {row['remedy']}")
    if not rows:
        click.echo("The plugin registers no components; there is nothing to check.", err=True)
