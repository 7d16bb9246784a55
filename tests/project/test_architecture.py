"""Imports point one way, and heavy packages are imported where they are used."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest

import plad_bench
import plad_bench_plugins

HARNESS = Path(plad_bench.__file__).parent
PLUGINS = Path(plad_bench_plugins.__file__).parent

HEAVY = {"torch", "transformers", "peft", "vllm", "lm_eval", "ray", "matplotlib", "datasets"}
LAYERS = {
    "contract": {"contract"},
    "plan": {"plan", "contract"},
    "records": {"records", "contract"},
    "leaderboard": {"leaderboard", "records", "plan", "contract"},
    "render": {"render", "leaderboard", "records", "contract"},
    "execute": {"execute", "records", "plan", "contract"},
    "running": {"running", "execute", "render", "leaderboard", "records", "plan", "contract"},
    "cli": {"cli", "running", "conformance", "execute", "render", "leaderboard", "records", "plan", "contract"},
    "learn": {"learn", "contract"},
    "conformance": {"conformance", "plan", "contract"},
}
"""Part -> the parts it may import."""


@dataclass(frozen=True)
class Import:
    """One import statement."""

    file: str
    line: int
    target: str
    top: bool
    """Executed when the module is imported."""
    typing: bool
    """Below `if TYPE_CHECKING`: for readers and type checkers only."""

    def __str__(self):
        return f"{self.file}:{self.line} imports {self.target}"


def imports(tree, file, package):
    """Every import of a module; `from a import b` counts as a.b, which may be a module or a name of one."""
    found = []

    def visit(node, top, typing):
        if isinstance(node, ast.Import):
            found.extend(Import(file, node.lineno, alias.name, top, typing) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                base = ".".join([*package.split(".")[: len(package.split(".")) - node.level + 1], base]).strip(".")
            found.extend(Import(file, node.lineno, f"{base}.{alias.name}", top, typing) for alias in node.names)
        inner_top = top and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        checks = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for name, field in ast.iter_fields(node):
            guarded = typing or (checks and name == "body")
            for child in field if isinstance(field, list) else [field]:
                if isinstance(child, ast.AST):
                    visit(child, inner_top, guarded)

    visit(tree, top=True, typing=False)
    return found


def modules(root, name):
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        package = ".".join([name, *relative.parts[:-1]])
        yield relative.as_posix(), imports(ast.parse(path.read_text()), f"{name}/{relative.as_posix()}", package)


CORE = dict(modules(HARNESS, "plad_bench"))
BUILTIN = dict(modules(PLUGINS, "plad_bench_plugins"))


def part_of(target):
    """The part of the harness a target is in; empty for the public API."""
    pieces = target.split(".")
    return pieces[1] if pieces[0] == "plad_bench" and len(pieces) > 1 and pieces[1] in LAYERS else ""


def test_the_walk_sees_every_kind_of_import():
    source = """
import torch
from plad_bench.learn import models
from . import sibling
from ..plan.spec import choose
if TYPE_CHECKING:
    import ray
else:
    import vllm
try:
    import datasets
except ImportError:
    pass
class A:
    import peft
    def f(self):
        import matplotlib.pyplot as plt
g = lambda: __import__("x")
"""
    found = {i.target: (i.top, i.typing) for i in imports(ast.parse(source), "x.py", "plad_bench.execute")}
    assert found == {
        "torch": (True, False),
        "plad_bench.learn.models": (True, False),
        "plad_bench.execute.sibling": (True, False),
        "plad_bench.plan.spec.choose": (True, False),
        "ray": (True, True),
        "vllm": (True, False),
        "datasets": (True, False),
        "peft": (True, False),
        "matplotlib.pyplot": (False, False),
    }


def test_every_part_is_there():
    assert {name.split("/")[0] for name in CORE if "/" in name} == set(LAYERS)
    assert "execute/stages/train.py" in CORE
    assert "methods/kd.py" in BUILTIN


@pytest.mark.parametrize("part", LAYERS)
def test_imports_point_one_way(part):
    wrong = []
    for name, found in CORE.items():
        if not name.startswith(f"{part}/"):
            continue
        allowed = set(LAYERS[part])
        if name.startswith("execute/stages/"):
            allowed.add("learn")
        wrong += [str(i) for i in found if (target := part_of(i.target)) and target not in allowed]
    assert wrong == []


def imported_by_module():
    """Module of the harness -> the modules of it that it imports, within functions and for type checkers, too."""
    names = {
        f"plad_bench/{name}": f"plad_bench.{name[:-3].replace('/', '.')}".removesuffix(".__init__") for name in CORE
    }

    def module_of(target):
        while target not in names.values():
            target = target.rpartition(".")[0]
        return target

    ours = ((names[f"plad_bench/{name}"], found) for name, found in CORE.items())
    return {
        module: {module_of(i.target) for i in found if i.target.split(".")[0] == "plad_bench"} - {module, "plad_bench"}
        for module, found in ours
    }


def circle(graph):
    """Modules that import each other in a circle; empty if there are none."""
    left = {module: set(targets) for module, targets in graph.items()}
    while free := {module for module, targets in left.items() if not targets & left.keys()}:
        left = {module: targets for module, targets in left.items() if module not in free}
    return sorted(left)


def test_no_modules_import_each_other_in_a_circle():
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": set()}) == ["a", "b", "c"]
    assert circle(imported_by_module()) == []


def test_nothing_but_the_entry_point_imports_commands():
    """Not even for type checkers."""
    below = {name: found for name, found in CORE.items() if not name.startswith("cli/") and name != "__main__.py"}
    assert [str(i) for found in below.values() for i in found if part_of(i.target) == "cli"] == []


def test_learning_is_imported_only_where_stages_run():
    allowed = ("learn/", "execute/stages/", "testing.py")
    wrong = [
        str(i)
        for name, found in CORE.items()
        for i in found
        if part_of(i.target) == "learn" and not i.typing and not name.startswith(allowed)
    ]
    assert wrong == []
    at_the_top = [
        str(i)
        for name, found in {**CORE, **BUILTIN}.items()
        for i in found
        if part_of(i.target) == "learn" and i.top and not i.typing
        if not name.startswith("learn/") and name != "launchers/_preload.py"
    ]
    assert at_the_top == []


def test_nothing_heavy_is_imported_at_the_top():
    light = tuple(f"{part}/" for part in LAYERS if part != "learn")
    files = {n: f for n, f in CORE.items() if n.startswith(light) or "/" not in n}
    files = {n: f for n, f in files.items() if n != "testing.py"}
    files |= {n: f for n, f in BUILTIN.items() if n != "launchers/_preload.py"}
    wrong = [
        str(i) for found in files.values() for i in found if i.top and not i.typing and i.target.split(".")[0] in HEAVY
    ]
    assert wrong == []


PUBLIC = set(plad_bench.__all__)


def test_plugins_use_the_public_interface():
    """What anyone's plugin may use: plad_bench itself, the contract, and, within functions, the learning library.

    Launchers start workers, and remake.py makes artifacts of the demo by the engine: they may use execute and plan.
    """
    wrong = []
    for name, found in BUILTIN.items():
        for i in found:
            if not i.target.startswith("plad_bench."):
                continue
            part, pieces = part_of(i.target), i.target.split(".")
            fine = (len(pieces) == 2 and pieces[1] in PUBLIC) or part in {"contract", "learn"}
            if name.startswith("launchers/") or name == "demo/remake.py":
                fine = fine or part in {"execute", "plan", "records"}
            if not fine:
                wrong.append(str(i))
    assert wrong == []


def test_the_public_interface_is_whole():
    for name in plad_bench.__all__:
        assert getattr(plad_bench, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = plad_bench.nothing


def meanings(trees):
    """Name of a class or type alias -> what each module defines it as; two equal aliases count once."""
    found = defaultdict(dict)
    for file, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                found[node.name].setdefault(file, file)
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                (target,) = node.targets if isinstance(node, ast.Assign) else (node.target,)
                if isinstance(target, ast.Name) and re.fullmatch(r"[A-Z]+[a-z]\w*", target.id):
                    found[target.id].setdefault(ast.unparse(node.value), file)
    return {name: sorted(of.values()) for name, of in found.items()}


def test_a_class_name_has_one_meaning():
    trees = {
        f"{root.name}/{path.relative_to(root)}": ast.parse(path.read_text(encoding="utf-8"))
        for root in (HARNESS, PLUGINS)
        for path in sorted(root.rglob("*.py"))
    }
    assert {name: files for name, files in meanings(trees).items() if len(files) > 1} == {}


def test_a_second_meaning_would_be_noticed():
    trees = {"a": "class Row: ...\nFind = list[str]", "b": "Row = dict[str, int]\nFind = list[str]"}
    assert meanings({name: ast.parse(text) for name, text in trees.items()}) == {"Row": ["a", "b"], "Find": ["a"]}


def loaded(*arguments, also=""):
    """The modules that a command line leaves imported."""
    code = (
        "import sys, json, contextlib, io\n"
        "from plad_bench.cli.main import main\n"
        "with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        f"    main({list(arguments)!r})\n"
        f"{also}\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    made = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(made.stdout))


def test_help_imports_nothing_it_does_not_need():
    seen = loaded("--help")
    assert "click" in seen
    assert not seen & (HEAVY | {"pydantic", "numpy", "scipy", "pyarrow", "jinja2", "rich"})


@pytest.mark.parametrize(
    "arguments", [("plugins",), ("run", "--help"), ("plan", "--methods", "all", "--board", "nowhere")]
)
def test_reading_commands_import_nothing_heavy(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = loaded(*arguments)
    assert "click" in seen
    assert not seen & HEAVY


def test_the_walk_at_run_time_would_notice():
    assert "torch" in loaded("--help", also="import torch")
