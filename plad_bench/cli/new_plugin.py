"""`new-plugin`: a package with one method, its entry point and its test, to begin from."""

from __future__ import annotations

import importlib.util
import keyword
import re
import sys
from pathlib import Path
from string import Template

import click

from plad_bench.cli.state import State
from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import write_atomically

_PYPROJECT = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "$name"
version = "0.1.0"
description = "The distillation method $name, for plad-bench."
readme = "README.md"
requires-python = ">=3.11"
dependencies = ["plad-bench"]

[project.optional-dependencies]
test = ["pytest"]

[project.entry-points.plad_bench]
$module = "$module"

[tool.hatch.build.targets.wheel]
only-include = ["$module.py"]

[tool.pytest.ini_options]
pythonpath = ["."]

[tool.ruff]
line-length = 120

[tool.mypy]
strict = true
files = ["$module.py"]
"""

_MODULE = '''\
"""The distillation method $name."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective, hookimpl, param

if TYPE_CHECKING:
    from torch import Tensor


class ${title}Params(MethodParams):
    """Parameters of $name."""

    weight: float = param(0.5, ge=0, le=1, source="ours")
    """Share of KL(p||q); the rest goes to KL(q||p)."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ${title}Params) -> Tensor:
    """The loss of each token, [N], from logits [N, V] of student and teacher and labels [N]. Put your equation here."""
    from plad_bench.learn.divergences import forward_kl, reverse_kl

    return params.weight * forward_kl(student, teacher) + (1 - params.weight) * reverse_kl(student, teacher)


METHOD = Method(
    name="$name",
    summary="Both Kullback-Leibler divergences, on the task's references.",
    version=1,  # raise it whenever the same parameters would give another result
    params=${title}Params,
    paper="none",
    title="The title of your paper",
    equation="weight KL(p || q) + (1 - weight) KL(q || p)",
    access=Access.LOGITS,
    objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
)


@hookimpl
def plad_bench_methods() -> Iterator[Method]:
    """Register $name."""
    yield METHOD
'''

_TEST = '''\
"""$name keeps what plad-bench expects of any method, and is its equation."""

import torch
from plad_bench.conformance import broken
from plad_bench.testing import token_loss

from $module import METHOD


def logits() -> torch.Tensor:
    return torch.randn(2, 4, 6, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def test_it_keeps_every_claim() -> None:
    assert broken(METHOD) == []


def test_it_is_zero_where_student_and_teacher_agree() -> None:
    _, teacher = logits()
    labels = torch.ones(4, 6, dtype=torch.long)
    assert token_loss(METHOD, teacher, teacher, labels).item() == 0


def test_it_is_its_equation() -> None:
    student, teacher = logits()
    labels = torch.ones(4, 6, dtype=torch.long)
    q, p = student.softmax(-1), teacher.softmax(-1)
    forward, reverse = (p * (p / q).log()).sum(-1), (q * (q / p).log()).sum(-1)
    expected = (0.2 * forward + 0.8 * reverse).mean()
    torch.testing.assert_close(token_loss(METHOD, student, teacher, labels, weight=0.2), expected)
'''

_README = """\
# $name

A distillation method for plad-bench. `$module.py` holds its parameters, its loss and its record.

```sh
pip install -e '.[test]'
pytest
plad-bench check-plugin .
plad-bench run --methods $name,kd --limit 40 --steps 10 --warmup-steps 10
```

The last command is a trial on the embedded demo; `plad-bench run --methods $name,kd --board $name` gives it its row.
While the package is installed with `-e`, results are keyed by its source: edit, and run again.
"""

FILES = {"pyproject.toml": _PYPROJECT, "$module.py": _MODULE, "tests/test_$module.py": _TEST, "README.md": _README}
"""Path -> text, with $name, $module and $title in both."""

_NAME = re.compile(r"[a-z][a-z0-9]*([-_][a-z0-9]+)*")


@click.command("new-plugin", short_help="Write a package with a method of your own, to begin from.")
@click.argument("name")
@click.option(
    "--in",
    "parent",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(),
    show_default="here",
    help="Directory to make it in.",
)
@click.pass_context
def new_plugin(ctx: click.Context, /, *, name: str, parent: Path) -> None:
    """Write a small package, NAME, with one method, its entry point and its test.

    It runs at once, and is yours to edit.
    """
    registry = ctx.ensure_object(State).registry
    module = _module(name)
    if name in registry.components("method"):
        raise UsageError(f"there is a method {name} already", "Choose another name; see `plad-bench plugins methods`.")
    target = parent.expanduser() / name
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already, and nothing in it was changed", "Choose another name, or use --in.")
    title = "".join(part.capitalize() for part in module.split("_"))
    words = {"name": name, "module": module, "title": title}
    for path, text in FILES.items():
        file = target / Template(path).substitute(words)
        write_atomically(file, Template(text).substitute(words).encode())
        click.echo(file)
    file = target / f"{module}.py"
    trial = f"plad-bench -p {file} run --methods {name},kd --limit 40 --steps 10 --warmup-steps 10"
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
