"""The pages agree with the code: generated ones are current, links resolve, commands parse, examples run."""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
import shlex
import tomllib
from dataclasses import fields
from typing import get_args

import click
import pytest
from pages import DOCS, PAGES, ROOT, commands, page_files, python_blocks
from pydantic import BaseModel

from plad_bench.cli.main import cli
from plad_bench.contract import hookspecs, renamed
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import Registry
from plad_bench.execute import recording
from plad_bench.plan import expenses
from plad_bench.plan.boardfile import BoardFile
from plad_bench.plan.chosen import choose
from plad_bench.records.schema import Record

EXAMPLE = ROOT / "examples" / "my_method.py"

KINDS = {
    "methods": "method",
    "student": "student",
    "teacher": "teacher",
    "task": "task",
    "pairs": "pair builder",
    "metrics": "metric",
}
"""Option of run -> kind of component that it selects."""


def _generator():
    found = importlib.util.spec_from_file_location("docs_generate", DOCS / "generate.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


GENERATOR = _generator()


@pytest.fixture(scope="module")
def registry():
    return Registry.load([EXAMPLE])


@pytest.fixture(scope="module")
def plugins(tmp_path_factory):
    """A directory with the files that commands on the pages name, and a registry with their plugins."""
    directory = tmp_path_factory.mktemp("pages")
    for name in ("README.md", "examples"):
        (directory / name).symlink_to(ROOT / name)
    for name, source in page_files().items():
        (directory / name).write_text(source, encoding="utf-8")
    files = [
        *(directory / name for name in page_files()),
        new_plugin(directory, "my-loss"),
        new_plugin(directory, "my-overlap", "metric"),
    ]
    return directory, Registry.load([EXAMPLE, *files])


def new_plugin(directory, name, kind="method"):
    """The module of a package that `new-plugin` writes."""
    cli.main(["new-plugin", name, "--kind", kind, "--in", str(directory)], standalone_mode=False)
    return directory / name / f"{name.replace('-', '_')}.py"


def read(name):
    return (DOCS / name).read_text(encoding="utf-8")


def first_column(page):
    """What stands in code in the first column of a page's tables."""
    return re.findall(r"^\| `([^`]+)`", page, flags=re.MULTILINE)


def section(page, heading):
    """The text below a heading, up to the next one of its level or above."""
    level = heading.split()[0]
    rest = page.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{len(level)}}} ", rest, maxsplit=1, flags=re.MULTILINE)[0]


# ------------------------------------------------------------------------------------------------ generated pages


@pytest.mark.parametrize(("path", "text"), GENERATOR.pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_generated_pages_are_current(path, text):
    assert path.read_text(encoding="utf-8") == text, f"{path.name} is not current: run python docs/generate.py"


@pytest.mark.slow
def test_estimates_are_current(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    import estimates

    for path, text in estimates.pages().items():
        assert path.read_text(encoding="utf-8") == text, f"{path.name} is not current: run python docs/estimates.py"


def test_generated_pages_depend_on_no_terminal(monkeypatch):
    before = GENERATOR.pages()
    monkeypatch.setenv("COLUMNS", "50")
    monkeypatch.setenv("PLAD_BENCH_STORE", "/somewhere")
    assert GENERATOR.pages() == before


def test_every_method_has_a_section_with_its_parameters(registry):
    page = read("methods.md")
    for found in registry.components("method").values():
        for method in (r.component for r in found if r.origin.plugin == "builtin"):
            assert f"| [{method.name}](#{method.name}) |" in page
            text = section(page, f"## {method.name}")
            assert method.equation in text
            assert method.title in text
            assert first_column(text) == [name for name in method.params.model_fields if name != "rounds"]


def test_every_command_and_option_is_on_the_page():
    page = read("cli.md")

    def visit(command, context):
        for parameter in command.params:
            for option in parameter.opts if isinstance(parameter, click.Option) else ():
                assert option in page or option.lstrip("-").replace("-", "_") in renamed.SETTINGS
        if isinstance(command, click.Group):
            for name in command.list_commands(context):
                below = command.get_command(context, name)
                assert f"## {context.command_path} {name}\n" in page
                visit(below, click.Context(below, info_name=name, parent=context))

    visit(cli, click.Context(cli, info_name="plad-bench"))


# ---------------------------------------------------------------------------------------------- links and commands


def _prose(page):
    """A page without its fenced blocks."""
    return re.sub(r"^ *```.*?^ *```", "", page, flags=re.MULTILINE | re.DOTALL)


def _anchors(path):
    return {GENERATOR.anchor(h) for h in re.findall(r"^#+ (.+)$", _prose(path.read_text()), flags=re.MULTILINE)}


def broken_links(path):
    """Relative links of a page that lead nowhere."""
    found = re.findall(r"\]\(([^)\s]+)\)", _prose(path.read_text(encoding="utf-8")))
    broken = []
    for link in (link for link in found if "://" not in link):
        file, _, fragment = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (fragment and fragment not in _anchors(target)):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_resolve(page):
    assert broken_links(page) == []


def test_a_broken_link_would_be_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("# A b\n[x](#a-b) [y](#c) [z](absent.md) [w](https://example.org/absent)\n")
    assert broken_links(page) == ["#c", "absent.md"]


def parse(arguments, registry):
    """Parse a command line without running it; names and parameters of components are looked up, too.

    Raises:
        click.UsageError: for a command or an option that does not exist, or a value that it does not take.
        UsageError: for a component or a parameter that does not exist.
    """
    context = cli.make_context("plad-bench", list(arguments))
    while isinstance(context.command, click.Group):
        rest = [*context._protected_args, *context.args]
        name, command, rest = context.command.resolve_command(context, rest)
        context = command.make_context(name, rest, parent=context)
    for option, kind in KINDS.items() if context.info_name in {"run", "plan"} else ():
        text = context.params[option]
        if text and text != "none":
            choose(registry, kind, text)


COMMANDS = [(path.name, c) for path in PAGES for c in commands(path.read_text(encoding="utf-8"))]


@pytest.mark.parametrize("arguments", [pytest.param(c, id=f"{name}: {shlex.join(c)}") for name, c in COMMANDS])
def test_commands_on_the_pages_parse(arguments, plugins, monkeypatch):
    directory, registry = plugins
    monkeypatch.chdir(directory)
    parse(arguments, registry)


@pytest.mark.parametrize(
    "wrong", ["run --stepps 3", "rum", "run --steps no", "run --methods sfd", "run --methods 'kd[t=1]'"]
)
def test_a_wrong_command_would_be_found(wrong, registry):
    (arguments,) = commands(f"```sh\nplad-bench {wrong} | head\n```\n")
    with pytest.raises(Exception, match=r"(?i)no such|unknown|not a valid|has no parameter"):
        parse(arguments, registry)


def test_the_tutorial_has_its_commands():
    assert len([c for name, c in COMMANDS if name == "add-a-method.md"]) >= 5


# --------------------------------------------------------------------------------------------------------- plugins


def test_every_hook_is_on_the_page_with_its_arguments():
    hooks = {n: f for n, f in vars(hookspecs).items() if n.startswith("plad_bench_") and callable(f)}
    page = section(read("plugins.md"), "## Hooks")
    documented = re.findall(r"plad_bench_\w+\([^)]*\)", page)
    assert sorted(documented) == sorted(f"{n}({', '.join(inspect.signature(f).parameters)})" for n, f in hooks.items())
    first = [n for n, f in hooks.items() if (f.plad_bench_spec or {}).get("firstresult")]
    assert first == ["plad_bench_cell_skip"]  # which the page says is the only one
    assert "`plad_bench_cell_skip` is the only hook that stops at the first result" in " ".join(page.split())


def test_the_signature_of_param_is_on_the_page():
    from plad_bench import param

    names = list(inspect.signature(param).parameters)
    assert names == ["default", "source", "local", "private", "keyed", "unsaid", "search", "bounds"]
    signature = 'source="", local=False, private=False, keyed=True, unsaid=False, search=None, **bounds'
    assert f"param(default, *, {signature})" in read("plugins.md")


def test_the_tutorial_shows_what_new_plugin_writes_and_the_example(tmp_path):
    for page, heading, file, count in [
        ("add-a-method.md", "## From an empty directory to a row on a board", new_plugin(tmp_path, "my-loss"), 3),
        ("add-a-component.md", "## A metric", EXAMPLE, 1),
    ]:
        blocks = python_blocks(section(read(page), heading))
        source = file.read_text(encoding="utf-8")
        assert len(blocks) == count
        assert [block for block in blocks if block not in source] == []


def test_the_example_registers_a_method_and_a_metric(registry):
    assert registry.broken == []
    own = [r.component.name for kind in ("method", "metric") for r in _own(registry, kind)]
    assert own == ["my-kd", "type-token"]


def _own(registry, kind):
    return [r for found in registry.components(kind).values() for r in found if r.origin.distribution == EXAMPLE.name]


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_of_the_example_is_its_equation(registry, weight):
    import torch

    from plad_bench.testing import token_loss

    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 3, 5, 11, dtype=torch.float64, generator=generator)
    labels = torch.randint(11, (3, 5), generator=generator)
    labels[0, 2:] = -100
    valid = labels != -100
    q, p = student[valid].softmax(-1), teacher[valid].softmax(-1)
    plain = (weight * p * (p / q).log() + (1 - weight) * q * (q / p).log()).sum(-1).mean()
    method = registry.get("method", "my-kd")
    torch.testing.assert_close(token_loss(method, student, teacher, labels, weight=weight), plain)
    assert token_loss(method, teacher, teacher, labels).item() == 0


def test_the_metric_of_the_example():
    from plad_bench import Scored

    metric = _own(Registry.load([EXAMPLE]), "metric")[0].component
    texts = ["a b c d", "A a b", ""]
    examples = [Scored(id="", prompt="", references=(), meta={}, response=text) for text in texts]
    assert metric.score(examples, metric.params(), None) == [
        1,
        pytest.approx(2 / 3),
        pytest.approx(float("nan"), nan_ok=True),
    ]


def test_the_check_of_the_formula_runs(registry):
    import torch

    (block,) = python_blocks(section(read("add-a-method.md"), "## Checking the formula"))
    names = {"METHOD": registry.get("method", "my-kd")}
    exec(block, names)
    assert names["same"].item() == 0
    torch.testing.assert_close(names["forward"], names["plain"])


# --------------------------------------------------------------------------------------- records and dependencies


def keys(model, prefix=""):
    """The dotted names of a record's keys, as its page has them."""
    for name, info in model.model_fields.items():
        path = f"{prefix}{info.alias or name}"
        yield path
        for part in (info.annotation, *get_args(info.annotation)):
            if isinstance(part, type) and issubclass(part, BaseModel):
                below = f"{path}.<name>." if info.annotation is not part and dict in _origins(info) else f"{path}."
                yield from keys(part, below)


def _origins(info):
    return {getattr(info.annotation, "__origin__", None)}


def test_the_record_is_documented_key_for_key():
    page = read("records.md")
    table = section(page, "## The record").split("\n### ")[0]
    assert first_column(table) == list(keys(Record))


def test_the_parts_of_a_record_are_documented_key_for_key():
    page = read("records.md")
    assert sorted(first_column(section(page, "### Protocol"))) == sorted(f.name for f in fields(Protocol))
    recorded = expenses.of_cell([(name, name) for name in ("teach", "sample", "signals-teach")], "distill", "sft-init")
    assert sorted(first_column(section(page, "### Cost"))) == sorted(recorded)
    provenance = first_column(section(page, "### Provenance"))
    source = inspect.getsource(recording) + inspect.getsource(importlib.import_module("plad_bench.execute.worker"))
    assert [key for key in provenance if f'"{key}":' not in source] == []


def test_the_keys_of_board_toml_are_documented():
    documented = first_column(section(read("records.md"), "## board.toml"))
    plain = {key.strip("[]").removesuffix(".NAME") for key in documented}
    assert plain == set(BoardFile.model_fields)


def test_every_dependency_is_explained():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = read("dependencies.md")

    def named(requirements):
        return [re.match(r"[\w.-]+", r)[0] for r in requirements if not r.startswith("plad-bench")]

    assert first_column(section(page, "## Base")) == named(project["dependencies"])
    extras = re.findall(r"^\| `([\w-]+)` \| `([\w-]+)` \|", section(page, "## Extras"), flags=re.MULTILINE)
    wanted = [(p, extra) for extra, packages in project["optional-dependencies"].items() for p in named(packages)]
    assert sorted(extras) == sorted(wanted)
