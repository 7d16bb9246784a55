"""`new-plugin`: creates a package with one component, its entry point and its test."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template

import click

from plad_bench.cli.state import State
from plad_bench.contract.api import API_VERSION
from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import write_atomically

TEMPLATES = files("plad_bench.cli") / "plugin_package"
"""Templates of the package files, with the placeholders $name, $module, $title, $kind and $options."""


@dataclass(frozen=True)
class PackageKind:
    """A kind of component for which a package can be created."""

    name: str
    """Its name in the registry."""
    options: str
    """The options of `run` that try the component, which is called $name."""

    @property
    def files(self) -> dict[str, str]:
        """Path in the package (with the placeholder $module) -> name of its template."""
        of = self.name.replace(" ", "_")
        return {
            "pyproject.toml": "pyproject.toml.txt",
            "README.md": "README.md.txt",
            "$module.py": f"{of}.py.txt",
            "tests/test_$module.py": f"test_{of}.py.txt",
        }


KINDS = {
    "method": PackageKind("method", "--methods $name,kd"),
    "teacher": PackageKind("teacher", "--teacher $name --methods seqkd"),
    "student": PackageKind("student", "--student $name --methods seqkd,kd"),
    "task": PackageKind("task", "--task $name --teacher 'scratch[steps=100]' --methods sft,seqkd"),
    "metric": PackageKind("metric", "--methods seqkd --metrics slot-errors,$name"),
    "pair-builder": PackageKind("pair builder", "--methods plad --pairs $name"),
}
"""Value of --kind -> the kind of component."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


@click.command("new-plugin", short_help="Create a plugin package from a template.")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), default="method", show_default=True, help="Kind of component.")
@click.option(
    "--in",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="current directory",
    help="Parent directory of the package.",
)
@click.pass_context
def new_plugin(ctx: click.Context, /, *, name: str, kind: str, parent: Path) -> None:
    """Create a small package NAME with one component, its entry point and its test.

    The package works as generated; edit it to implement your own component.
    """
    registry = ctx.ensure_object(State).registry
    chosen, module = KINDS[kind], _module(name)
    if name in registry.components(chosen.name):
        raise UsageError(
            f"{chosen.name} {name} already exists", "Choose another name; `plad-bench plugins` lists the existing ones."
        )
    target = parent.expanduser() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(
            f"{target} already exists and is not an empty directory",
            "Choose another name or another parent directory (--in).",
        )
    title = "".join(part.capitalize() for part in module.split("_"))
    words = {"name": name, "module": module, "title": title, "kind": chosen.name, "api": str(API_VERSION)}
    words["options"] = Template(chosen.options).substitute(words)
    for path, template in chosen.files.items():
        file = target / Template(path).substitute(words)
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        write_atomically(file, Template(text).substitute(words).encode())
        click.echo(file)
    file = target / f"{module}.py"
    trial = f"plad-bench -p {file} run {words['options']} --limit 40 --steps 10 --sft-steps 10"
    commands = [f"pytest {target}", f"plad-bench check-plugin {target}", trial]
    click.echo("\n  ".join(["\nTry it:", *commands]) + f"\nThen edit {file}.", err=True)


def _module(name: str) -> str:
    """The name of the package's module."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"invalid plugin name {name!r}", "Use lower-case letters, digits and single hyphens, as in my-method."
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise UsageError(f"{name}: a Python module {module} already exists", "Choose another name.")
    return module
