"""`new-plugin`: a package with one component, its entry point and its test, to begin from."""

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
from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import write_atomically

TEMPLATES = files("plad_bench.cli") / "plugin_package"
"""Files of every kind of package, with $name, $module, $title, $kind and $options in them."""


@dataclass(frozen=True)
class Kind:
    """A kind of component that a package can begin with."""

    name: str
    """As the registry has it."""
    options: str
    """Those of `run` that try it; $name is the component's."""

    @property
    def files(self) -> dict[str, str]:
        """Path in the package, with $module in it -> the name of its template."""
        of = self.name.replace(" ", "_")
        return {
            "pyproject.toml": "pyproject.toml.txt",
            "README.md": "README.md.txt",
            "$module.py": f"{of}.py.txt",
            "tests/test_$module.py": f"test_{of}.py.txt",
        }


KINDS = {
    "method": Kind("method", "--methods $name,kd"),
    "teacher": Kind("teacher", "--teacher $name --methods seqkd"),
    "student": Kind("student", "--student $name --methods seqkd,kd"),
    "task": Kind("task", "--task $name --teacher 'scratch[steps=100]' --methods sft,seqkd"),
    "metric": Kind("metric", "--methods seqkd --metrics slot-errors,$name"),
    "pair-builder": Kind("pair builder", "--methods plad --pairs $name"),
}
"""Value of --kind -> what is written."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


@click.command("new-plugin", short_help="Write a package with a plugin of your own, to begin from.")
@click.argument("name")
@click.option("--kind", type=click.Choice(list(KINDS)), default="method", show_default=True, help="What it adds.")
@click.option(
    "--in",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="here",
    help="Directory to make it in.",
)
@click.pass_context
def new_plugin(ctx: click.Context, /, *, name: str, kind: str, parent: Path) -> None:
    """Write a small package, NAME, with one component of a kind, its entry point and its test.

    It runs at once, and is yours to edit.
    """
    registry = ctx.ensure_object(State).registry
    chosen, module = KINDS[kind], _module(name)
    if name in registry.components(chosen.name):
        raise UsageError(f"there is a {chosen.name} {name} already", "Choose another name; see `plad-bench plugins`.")
    target = parent.expanduser() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already, and nothing in it was changed", "Choose another name, or use --in.")
    title = "".join(part.capitalize() for part in module.split("_"))
    words = {"name": name, "module": module, "title": title, "kind": chosen.name}
    words["options"] = Template(chosen.options).substitute(words)
    for path, template in chosen.files.items():
        file = target / Template(path).substitute(words)
        text = (TEMPLATES / template).read_text(encoding="utf-8")
        write_atomically(file, Template(text).substitute(words).encode())
        click.echo(file)
    file = target / f"{module}.py"
    trial = f"plad-bench -p {file} run {words['options']} --limit 40 --steps 10 --sft-steps 10"
    click.echo(f"\nTry it:\n  {trial}\n  plad-bench check-plugin {target}\nThen edit {file}.", err=True)


def _module(name: str) -> str:
    """The name of its module."""
    if not _NAME.fullmatch(name):
        raise UsageError(
            f"{name!r} is not a name for a plugin", "Use lower-case letters, digits and single '-', as in my-method."
        )
    module = name.replace("-", "_")
    if keyword.iskeyword(module) or module in sys.stdlib_module_names or importlib.util.find_spec(module):
        raise UsageError(f"{name}: Python has a module {module} already", "Choose another name.")
    return module
