"""Every hook is documented with an example that works, and called with exactly what its documentation says."""

from __future__ import annotations

import ast
import inspect
import re
import textwrap
import types
from pathlib import Path

import pluggy
import pytest
from click.testing import CliRunner

import plad_bench
from plad_bench.contract import hookspecs
from plad_bench.contract.events import Event
from plad_bench.contract.launching import LauncherSession, StageProcess
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import KINDS, Registry
from plad_bench.execute.runs import CellWatcher, Options, Run
from plad_bench.execute.store import Store
from plad_bench.plan import boardfile, matrix, spec
from plad_bench.records import storage

HOOKS = [name for name, value in vars(hookspecs).items() if name.startswith("plad_bench_") and callable(value)]

PLUGIN = '''
"""A plugin that implements every hook and notes each call."""

import click

from plad_bench import (
    Access, Check, Example, Finding, Launcher, Method, Metric, Pair, PairBuilder, Protocol, ScratchModel, Student,
    Task, Teacher, Term, Text, TokenObjective, hookimpl,
)

seen = []
SIZE = ScratchModel(layers=1, width=8, heads=2, vocabulary=260, context=64)
PROTOCOL = Protocol(steps=2, sft_steps=0, batch=4, max_new_tokens=4)
WORDS = "one two three four five six seven eight nine ten".split()


def note(hook, *given):
    seen.append((hook, given))


def loss(student, teacher, labels, params):
    from torch.nn.functional import cross_entropy

    return cross_entropy(student.float(), labels, reduction="none")


def load(params):
    for i in range(60):
        yield Example(prompt=f"{WORDS[i % 10]} {i}", references=(f"{i} is {WORDS[i % 7]}",))


def method(name):
    return Method(
        name=name, summary="", paper="", title="", equation="", access=Access.TEXT,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),), teacher_logits=False),
    )


def length(examples, params, scorers):
    return [float(len(e.response)) for e in examples]


@hookimpl
def plad_bench_teachers():
    note("plad_bench_teachers")
    yield Teacher(name="own-teacher", summary="", provides=frozenset({Access.TEXT}), model=lambda params: SIZE)


@hookimpl
def plad_bench_pair_builders():
    note("plad_bench_pair_builders")
    yield PairBuilder(name="own-pairs", summary="", needs=frozenset(), build=lambda candidates, params, scorers: [])


@hookimpl
def plad_bench_methods():
    note("plad_bench_methods")
    yield method("own-method")
    yield method("lazy-method")


@hookimpl
def plad_bench_metrics():
    note("plad_bench_metrics")
    yield Metric(name="own-metric", summary="", better="higher", score=length)


@hookimpl
def plad_bench_tasks():
    note("plad_bench_tasks")
    yield Task(
        name="own-task", summary="", load=load, dataset="here", licence="CC0-1.0", redistributable=True,
        protocol=PROTOCOL, metrics=("own-metric",), student="own-student",
    )


@hookimpl
def plad_bench_students():
    note("plad_bench_students")
    yield Student(name="own-student", summary="", teacher="own-teacher", model=lambda params: SIZE)


@hookimpl
def plad_bench_launchers():
    note("plad_bench_launchers")
    yield Launcher(name="own-launcher", summary="", open=lambda params, options: None)


@hookimpl
def plad_bench_checks():
    note("plad_bench_checks")
    yield Check(name="own-check", summary="", run=lambda: [Finding(ok=True, message="fine")])


@hookimpl
def plad_bench_commands(cli):
    note("plad_bench_commands", cli)

    @cli.command()
    def hello():
        """Say hello."""
        click.echo("hello from a plugin")


@hookimpl
def plad_bench_cell_skip(cell):
    note("plad_bench_cell_skip", cell)
    return "too lazy" if cell.row == "lazy-method" else None


@hookimpl
def plad_bench_run_started(event):
    note("plad_bench_run_started", event)


@hookimpl
def plad_bench_stage_finished(event):
    note("plad_bench_stage_finished", event)


@hookimpl
def plad_bench_cell_finished(event):
    note("plad_bench_cell_finished", event)


@hookimpl
def plad_bench_run_finished(event):
    note("plad_bench_run_finished", event)


@hookimpl
def plad_bench_board_sections(board):
    note("plad_bench_board_sections", board)
    return f"## Sponsors of {board.name}\\n\\nNobody."
'''

GRUMPY = """
from plad_bench import hookimpl

@hookimpl
def plad_bench_run_started(event):
    raise RuntimeError("grumpy at the start")

@hookimpl
def plad_bench_stage_finished(event):
    raise RuntimeError("grumpy at a stage")

@hookimpl
def plad_bench_cell_finished(event):
    raise RuntimeError("grumpy at a cell")

@hookimpl
def plad_bench_run_finished(event):
    raise RuntimeError("grumpy at the end")

@hookimpl
def plad_bench_board_sections(board):
    raise RuntimeError("grumpy at the board")
"""


class Done(StageProcess):
    """A stage that ran while it was started."""

    def __init__(self, code):
        self.code = code

    def poll(self):
        return self.code


class Here(LauncherSession):
    """Runs every stage in this process."""

    slots = 1
    device = "cpu"

    def start(self, job, log, slots):
        from plad_bench.execute import worker

        log.touch()
        return Done(worker.main(str(job)))

    def close(self):
        pass


class Observed:
    """A registry with the plugin, and what it noted."""

    def __init__(self, directory, *more):
        self.file = directory / "own.py"
        self.file.write_text(PLUGIN)
        self.directory = directory
        self.registry = Registry.load([self.file, *more])
        assert [b.cause for b in self.registry.broken] == []
        self.plugin = self.registry.manager.get_plugin("own (own.py)")

    def calls(self, hook):
        return [given for name, given in self.plugin.seen if name == hook]

    def run(self):
        """A run of one cell, and of one that is skipped; the record's directory."""
        run = spec.build(self.registry, task="own-task", methods="own-method,lazy-method", pairs="own-pairs")
        self.cells = [c for c in matrix.cells(run, self.registry) if c.method is not None]
        store = Store(self.directory / "store")
        store.prepare()
        board = self.directory / "boards" / "mine"
        self.counts = Run(
            store=store, board=board, arguments=["run"], registry=self.registry, plugins=self.registry.files
        ).execute(
            self.cells,
            [c for c in self.cells if not c.skip],
            open_session=Here,
            threads=1,
            options=Options(),
            watcher=CellWatcher(),
            afresh=False,
        )
        boardfile.write(
            board / "board.toml",
            boardfile.merged(boardfile.BoardFile(), "mine", {"own-task": Protocol()}, ["own-metric"], 1),
        )
        return board


@pytest.fixture
def observed(tmp_path):
    return Observed(tmp_path)


def test_the_plugin_implements_every_hook(observed):
    assert {name for name in vars(observed.plugin) if name.startswith("plad_bench_")} == set(HOOKS)
    assert len(HOOKS) == 15


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_documented_with_an_example_that_registers(name):
    """The example is Python, implements that hook with its arguments, and passes the registry's validation."""
    doc = inspect.getdoc(getattr(hookspecs, name))
    summary, _, example = doc.partition("For example:\n")
    assert len(summary.split()) >= 3
    code = textwrap.dedent(example)
    made = {f.name: f for f in ast.walk(ast.parse(code)) if isinstance(f, ast.FunctionDef)}
    assert [a.arg for a in made[name].args.args] == list(inspect.signature(getattr(hookspecs, name)).parameters)
    module = types.ModuleType("example")
    vars(module).update({public: getattr(plad_bench, public) for public in plad_bench.__all__})
    exec(compile(code, name, "exec"), vars(module))
    manager = pluggy.PluginManager("plad_bench")
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    (impl,) = getattr(manager.hook, name).get_hookimpls()
    kind = next((record for hook, record in KINDS.values() if hook == name), None)
    if kind is not None and kind != "Launcher":
        assert [type(component).__name__ for component in impl.function()] == [kind]


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_on_the_page_for_plugin_authors(name):
    page = (Path(__file__).parents[2] / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert re.search(rf"\b{name}\b", page)


@pytest.mark.parametrize("kind", KINDS)
def test_registration_hooks_are_called_once_without_arguments(observed, kind):
    hook, record = KINDS[kind]
    for _ in range(2):
        mine = [r for found in observed.registry.components(kind).values() for r in found if r.origin.plugin == "own"]
    assert {type(r.component).__name__ for r in mine} == {record}
    assert observed.calls(hook) == [()]


def test_a_check_of_a_plugin_runs(observed):
    (finding,) = observed.registry.get("check", "own-check").run()
    assert (finding.ok, finding.message) == (True, "fine")


def test_a_command_of_a_plugin_is_added(observed):
    from plad_bench.cli.main import State, cli

    state = State()
    made = CliRunner().invoke(cli, ["-p", str(observed.file), "hello"], obj=state)
    try:
        assert (made.exit_code, made.output) == (0, "hello from a plugin\n")
        own = state.registry.manager.get_plugin("own (own.py)")
        assert [given for name, given in own.seen if name == "plad_bench_commands"] == [(cli,)]
        assert "Say hello." in CliRunner().invoke(cli, ["-p", str(observed.file), "--help"]).output
    finally:
        cli.commands.pop("hello", None)


def test_the_hooks_of_a_run_are_called_with_what_happens(observed):
    board = observed.run()
    ran, lazy = observed.cells
    assert lazy.skip == "too lazy"
    assert [cell.id for (cell,) in observed.calls("plad_bench_cell_skip")] == [ran.id, lazy.id]
    assert observed.counts == {"done": 1, "cached": 0, "skipped": 1, "failed": 0, "written": 2}

    ((started,),) = observed.calls("plad_bench_run_started")
    assert (started.kind, started.status, started.data["cells"]) == ("run_started", "started", 1)
    assert started.data["command"].startswith("plad-bench")
    assert started.name

    stages = [event for (event,) in observed.calls("plad_bench_stage_finished")]
    asked = list(ran.scores["own-metric"].walk())
    assert stages == [Event(kind="stage_finished", name=s.name, status="done", data={"key": s.key}) for s in asked]

    ((finished,),) = observed.calls("plad_bench_cell_finished")
    record = storage.read(board / "cells" / f"{ran.id}.json")
    data = record.model_dump(mode="json", by_alias=True)
    assert finished == Event(kind="cell_finished", name=ran.id, status="done", data=data)

    ((ended,),) = observed.calls("plad_bench_run_finished")
    assert ended == Event(kind="run_finished", name=started.name, status="finished", data=observed.counts)
    order = [name for name, _ in observed.plugin.seen if name.endswith(("_started", "_finished"))]
    assert order[0] == "plad_bench_run_started"
    assert order[-2:] == ["plad_bench_cell_finished", "plad_bench_run_finished"]


def test_a_stage_that_fails_is_told_as_failed(observed, monkeypatch):
    observed.file.write_text(
        PLUGIN.replace("return cross_entropy", "raise RuntimeError('bad day')\n    return cross_entropy")
    )
    observed.run()
    assert observed.counts["failed"] == 1
    last = observed.calls("plad_bench_stage_finished")[-1][0]
    assert (last.name, last.status) == ("distill", "failed")
    assert "bad day" in last.data["message"]
    assert observed.calls("plad_bench_cell_finished")[0][0].status == "failed"


def test_a_board_gets_the_sections_of_plugins(observed):
    from plad_bench.running import pages

    board = observed.run()
    pages.render(board, observed.registry)
    ((given,),) = observed.calls("plad_bench_board_sections")
    assert type(given).__name__ == "Board"
    assert given.name == "mine"
    assert "## Sponsors of mine\n\nNobody.\n" in (board / "README.md").read_text()


def test_an_observer_that_fails_is_named_in_the_log_and_the_run_goes_on(tmp_path, caplog):
    from plad_bench.running import pages

    grumpy = tmp_path / "grumpy.py"
    grumpy.write_text(GRUMPY)
    observed = Observed(tmp_path, grumpy)
    board = observed.run()
    assert observed.counts == {"done": 1, "cached": 0, "skipped": 1, "failed": 0, "written": 2}
    for hook, moment in [
        ("run_started", "the start"),
        ("stage_finished", "a stage"),
        ("cell_finished", "a cell"),
        ("run_finished", "the end"),
    ]:
        assert f"plugin grumpy (grumpy.py) failed in plad_bench_{hook}" in caplog.text
        assert f"grumpy at {moment}" in caplog.text
        assert observed.calls(f"plad_bench_{hook}"), "the other plugin was told all the same"
    pages.render(board, observed.registry)
    assert "plugin grumpy (grumpy.py) failed to write its section" in caplog.text
    assert "## Sponsors of mine" in (board / "README.md").read_text()
