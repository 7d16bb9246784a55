"""Code that seldom runs (benchmarks, tests that need a GPU or a large package) calls what there is, as it is called.

A function of this project that was renamed, or that has gained an argument, is found without running its callers.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    file
    for place in ("benchmarks", "docs", "tests")
    for file in (ROOT / place).rglob("*.py")
    if "site" not in file.parts
)


def imported(tree: ast.AST) -> dict[str, object]:
    """Name -> what a file imports of this project."""
    found: dict[str, object] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in {
            "plad_bench",
            "plad_bench_plugins",
        }:
            place = importlib.import_module(node.module or "")
            for one in node.names:
                if not hasattr(place, one.name):
                    importlib.import_module(f"{node.module}.{one.name}")
                found[one.asname or one.name] = getattr(place, one.name)
    return found


def faults(tree: ast.AST) -> Iterator[str]:
    """Attributes of modules that there are not, and calls that their functions refuse."""
    known = imported(tree)
    bound = {
        a.arg for node in ast.walk(tree) if isinstance(node, ast.arguments) for a in [*node.args, *node.kwonlyargs]
    }
    bound |= {n.id for n in ast.walk(tree) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}

    def value(node: ast.expr) -> object:
        if isinstance(node, ast.Name) and node.id not in bound:
            return known.get(node.id)
        if isinstance(node, ast.Attribute) and inspect.ismodule(place := value(node.value)):
            return getattr(place, node.attr, None)
        return None

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and inspect.ismodule(place := value(node.value)):
            read = isinstance(node.ctx, ast.Load) and not hasattr(place, "__getattr__")
            if read and place.__name__.startswith("plad_bench") and not hasattr(place, node.attr):
                yield f"line {node.lineno}: {place.__name__} has no {node.attr}"
        if isinstance(node, ast.Call) and inspect.isfunction(function := value(node.func)):
            starred = any(isinstance(one, ast.Starred) for one in node.args) or any(
                k.arg is None for k in node.keywords
            )
            given = {k.arg: None for k in node.keywords if k.arg}
            signature = inspect.signature(function)
            try:
                (signature.bind_partial if starred else signature.bind)(*[None for _ in node.args], **given)
            except TypeError as error:
                yield f"line {node.lineno}: {function.__name__}: {error}"


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of old names, which tests import on purpose
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_called_is_there(file):
    assert list(faults(ast.parse(file.read_text()))) == []


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("shapes.usually(1)", ["line 2: plad_bench.plan.shapes has no usually"]),
        ("shapes.usual()", ["line 2: usual: missing a required argument: 'parameters'"]),
        ("shapes.usual(1, x=2)", ["line 2: usual: got an unexpected keyword argument 'x'"]),
        ("shapes.usual(*[1])", []),
        ("shapes.usual(1)", []),
    ],
)
def test_what_is_not_there_is_found(call, said):
    assert list(faults(ast.parse(f"from plad_bench.plan import shapes\n{call}"))) == said
