"""What the harness expects of components: all that are registered keep it, one that does not is caught and named."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner

from plad_bench import Access, Example, Method, Metric, PairObjective, Params, Student, Task, Term, Text, TokenObjective
from plad_bench.cli.main import cli
from plad_bench.cli.new_plugin import KINDS as PACKAGES
from plad_bench.conformance import broken, verdicts
from plad_bench.contract.errors import UsageError
from plad_bench.contract.registry import KINDS

EVERY = [
    pytest.param(found[0].component, id=f"{kind}-{name}")
    for kind in KINDS
    for name, found in tiny.registry().components(kind).items()
]
ROOT = Path(__file__).parents[1]
MINE = ROOT / "examples" / "my_method.py"


@pytest.mark.parametrize("component", EVERY)
def test_every_registered_component_keeps_every_claim(component):
    found = verdicts(component, tiny.registry())
    assert [v for v in found if v.level in {"failed", "warning"}] == []
    assert sum(v.level == "ok" for v in found) >= 3


# ----------------------------------------------------------------------------------------------- what is not kept shows


def token(loss, **more):
    given = {
        "name": "mine",
        "summary": "Mine.",
        "paper": "none",
        "title": "none",
        "equation": "none",
        "access": Access.LOGITS,
        "objective": TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
    }
    return Method(**{**given, **more})


def squared(student, teacher, labels, params):
    return (student.softmax(-1) - teacher.softmax(-1)).square().sum(-1)


def pair(loss):
    return token(squared, objective=PairObjective(loss=loss))


class Bare(Params):
    """Without a word on its parameter."""

    size: int = 1


METRIC = Metric(name="m", summary="M.", better="lower", score=lambda examples, params, tools: [0.0] * len(examples))
TASK = Task(
    name="t",
    summary="T.",
    dataset="made here",
    licence="CC0-1.0",
    redistributable=True,
    metrics=("length",),
    student="tiny",
    load=lambda params: [Example(prompt=p, references=("r",)) for p in "ab"],
)
WRONG = {
    "a loss of the labels' numbers": (
        token(lambda s, t, y, p: squared(s, t, y, p) * y),
        "order of the vocabulary changes nothing",
    ),
    "a loss of raw logits": (
        token(lambda s, t, y, p: (s - t).nan_to_num(0, 0, 0).square().mean(-1)),
        "impossible for student and teacher",
    ),
    "a loss that learns nothing": (token(lambda s, t, y, p: 0 * s.sum(-1)), "no position has a gradient"),
    "a loss that never ends": (token(lambda s, t, y, p: s.sum(-1) / 0), "finite, in the dtype"),
    "probabilities that underflow": (
        token(lambda s, t, y, p: -(t.softmax(-1) * s.softmax(-1).log()).sum(-1)),
        "Work in log space: log_softmax(-1) instead of softmax(-1).log()",
    ),
    "a root of nothing": (
        token(lambda s, t, y, p: squared(s, t, y, p) + (s - s).square().sum(-1).sqrt()),
        "The gradient of sqrt() at 0",
    ),
    "an average of its own": (token(lambda s, t, y, p: squared(s, t, y, p) / len(y)), "depends on that token alone"),
    "a loss that fails": (token(lambda s, t, y, p: s.nothing), "AttributeError"),
    "no paper": (token(squared, paper=""), "it names its paper, title and equation"),
    "no lr": (token(squared, params=Params), "no parameter lr"),
    "a summary of two lines": (token(squared, summary="One.\nTwo."), "its summary is one sentence"),
    "a version of text": (token(squared, version="1"), "integer of at least 1"),
    "a parameter without a word": (replace(METRIC, params=Bare), "no text below size"),
    "pairs that know each other": (
        pair(lambda b, p: b.rejected_logprob - b.chosen_logprob.mean() * b.chosen_logprob),
        "depends on that pair alone",
    ),
    "a pair loss that overflows": (
        pair(lambda b, p: (b.rejected_logprob - b.chosen_logprob).exp()),
        "finite however certain",
    ),
    "0 times -inf": (
        token(lambda q, p, y, params: (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)),
        "\n  0 * -inf is NaN: use the functions of plad_bench.learn.divergences",
    ),
    "too few values": (replace(METRIC, score=lambda e, p, t: [0.0]), "1 values for 5 examples"),
    "an infinite value": (replace(METRIC, score=lambda e, p, t: [math.inf] * len(e)), "an infinite value among"),
    "values by place": (replace(METRIC, score=lambda e, p, t: list(range(len(e)))), "in any order of the examples"),
    "a metric that an empty response breaks": (
        replace(METRIC, score=lambda e, p, t: [1 / len(x.response) for x in e]),
        "ZeroDivisionError",
    ),
    "better than nothing": (replace(METRIC, better="more"), "`better` is 'more'"),
    "one prompt": (
        replace(TASK, load=lambda params: [Example(prompt="a", references=())]),
        "not two different prompts",
    ),
    "references of another kind": (
        replace(TASK, load=lambda params: [Example(prompt=p, references=[1]) for p in "ab"]),
        "references are a list",
    ),
    "no licence": (replace(TASK, licence=""), "licence is empty"),
    "a student of text": (Student(name="s", summary="S.", model=lambda params: "org/name"), "`model` returns str"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_a_component_does_not_keep_is_named(case):
    component, problem = WRONG[case]
    assert any(problem in line for line in broken(component)), broken(component)


def test_every_claim_has_a_remedy():
    for case, (component, _) in WRONG.items():
        for verdict in verdicts(component):
            assert bool(verdict.remedy) == (verdict.level != "ok"), case


def test_what_is_right_is_not_complained_of():
    for component in (token(squared), METRIC, TASK):
        assert broken(component) == []


def test_advice_is_no_failure():
    pushes_up = pair(lambda b, p: b.chosen_logprob + b.rejected_logprob)
    assert broken(pushes_up) == []
    assert [v.claim for v in verdicts(pushes_up) if v.level == "warning"] == [
        "it raises the probability of the chosen response and lowers that of the rejected one"
    ]


def test_selectors_are_looked_up_where_there_is_a_registry():
    lost = replace(TASK, student="tinny")
    assert broken(lost) == []
    (verdict,) = [v for v in verdicts(lost, tiny.registry()) if v.level == "failed"]
    assert "unknown student 'tinny'" in verdict.problem
    assert torch.is_grad_enabled()


# ------------------------------------------------------------------------------------------------- the two commands


def call(*arguments, expect=0):
    result = CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)
    assert result.exception is None, result.output
    assert (result.return_value or 0) == expect, result.output
    return result


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKAGES)
def test_a_new_plugin_keeps_every_claim_and_passes_its_own_test(tmp_path, kind):
    call("new-plugin", f"my-{kind}", "--kind", kind, "--in", tmp_path)
    package, module = tmp_path / f"my-{kind}", f"my_{kind.replace('-', '_')}"
    written = {p.relative_to(package).as_posix() for p in package.rglob("*") if p.is_file()}
    assert written == {"pyproject.toml", "README.md", f"{module}.py", f"tests/test_{module}.py"}
    assert not any("$" in path.read_text() for path in package.rglob("*") if path.is_file())
    rows = json.loads(call("check-plugin", package, "--json").stdout)
    assert rows["plugins"] == [module]
    assert {(row["kind"], row["name"], row["level"]) for row in rows["checks"]} == {
        (PACKAGES[kind].name, f"my-{kind}", "ok")
    }
    commands = [["pytest", "-q", "-p", "no:cacheprovider"]]
    commands += [["ruff", *of, "--no-cache"] for of in (["check"], ["format", "--check"])] if have("ruff") else []
    for command in commands:
        made = subprocess.run(
            [sys.executable, "-m", *command], cwd=package, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stdout + made.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", PACKAGES)
def test_a_new_plugin_is_installed_tried_and_shows_up(tmp_path, kind):
    """As its README says, but for pip's isolation and resolution: what the package needs is installed here."""
    pytest.importorskip("hatchling")
    pytest.importorskip("editables")
    call("new-plugin", f"my-{kind}", "--kind", kind, "--in", tmp_path)
    package = tmp_path / f"my-{kind}"
    venv = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    parents = [path for path in sys.path if "site-packages" in path] + [str(ROOT), str(ROOT / "plugins")]
    (site / "parents.pth").write_text("\n".join(parents))
    place = {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "PLAD_BENCH_STORE": str(tmp_path / "store")}
    (lines,) = re.findall(r"```sh\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    install, test, check, trial = lines.replace("plad-bench ", "python -m plad_bench ").splitlines()
    install = f"python -m {install} --no-build-isolation --no-deps -q"
    for line in (install, f"python -m {test}", check, trial, "python -m plad_bench plugins --json"):
        made = subprocess.run(
            ["bash", "-c", line], cwd=package, env={**os.environ, **place}, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, f"{line}\n{made.stdout}\n{made.stderr}"
    components = json.loads(made.stdout)["components"][PACKAGES[kind].name]
    assert f"my-{kind} 0.1.0" in {c["distribution"] for c in components}


def have(module):
    return subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kd", "method kd already exists"),
        ("rouge-l --kind metric", "metric rouge-l already exists"),
        ("mbr --kind pair-builder", "pair builder mbr already exists"),
        ("json", "a Python module json already exists"),
        ("torch", "a Python module torch already exists"),
        ("class", "a Python module class already exists"),
        ("My-Loss", "invalid plugin name"),
        ("../loss", "invalid plugin name"),
        ("1loss", "invalid plugin name"),
    ],
)
def test_a_name_that_cannot_be_is_refused_and_writes_nothing(tmp_path, name, message):
    result = CliRunner().invoke(cli, ["new-plugin", *name.split(), "--in", str(tmp_path)], standalone_mode=False)
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_is_never_written_over(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "README.md").write_text("mine")
    result = CliRunner().invoke(cli, ["new-plugin", "mine", "--in", str(tmp_path)], standalone_mode=False)
    assert "already exists" in str(result.exception)
    assert (tmp_path / "mine" / "README.md").read_text() == "mine"


def test_the_example_and_the_built_in_plugin_pass():
    assert call("check-plugin", MINE).stdout.count("method my-kd: ") == 1
    listed = call("check-plugin", "plad-bench").stdout
    assert "method plad: " in listed
    assert "metric rouge-l: " in listed
    assert "failed" not in listed


def plugin(tmp_path, body):
    file = tmp_path / "house.py"
    file.write_text(f"import itertools\nfrom plad_bench import Metric, hookimpl\n{body}")
    return file


def metric(name="m", score="[0.0] * len(e)"):
    return f'    yield Metric(name="{name}", summary="M.", better=None, score=lambda e, p, t: {score})\n'


HOOK = "@hookimpl\ndef plad_bench_metrics():\n"
PROBLEMS = {
    "a claim": (HOOK + metric(score="[0.0]"), 1, "1 values for 5 examples"),
    "a hook that is none": (
        "@hookimpl\ndef plad_bench_metric():\n" + metric() + HOOK + metric(),
        1,
        "plad_bench_metric is not a hook\n           Did you mean plad_bench_metrics",
    ),
    "a name that is taken": (HOOK + metric("length"), 1, "its name is unique: registered by plad-bench"),
    "another name each time": (
        "n = itertools.count()\n" + HOOK + metric('" + f"m{next(n)}" + "').replace('"" + ', "").replace(' + ""', ""),
        1,
        "the same records each time: metrics ['m0'], then ['m1']",
    ),
    "a broken module": ("def (:\n", 4, "SyntaxError"),
    "a broken hook": (HOOK + metric() + "    raise RuntimeError('bad day')\n", 4, "RuntimeError: bad day"),
    "nothing at all": (
        "",
        1,
        "no function has @hookimpl, so nothing calls it; the hooks are plad_",
    ),
    "a hook without its mark": (
        HOOK.replace("@hookimpl\n", "") + metric(),
        1,
        "plad_bench_metrics has no @hookimpl, so nothing calls it",
    ),
    "no component": ("@hookimpl\ndef plad_bench_run_started(event):\n    pass\n", 0, "no component"),
}


@pytest.mark.parametrize("case", PROBLEMS)
def test_what_is_wrong_with_a_plugin_is_said_with_the_right_exit_code(tmp_path, case):
    body, code, problem = PROBLEMS[case]
    assert problem in call("check-plugin", plugin(tmp_path, body), expect=code).output


def test_what_is_no_plugin(tmp_path):
    (tmp_path / "pyproject.toml").write_text("[project]\nname='x'\n")
    for target, message in (
        (tmp_path, "declares no plugin"),
        (tmp_path / "absent.py", "no file"),
        ("bultin", "Did you mean builtin"),
    ):
        result = CliRunner().invoke(cli, ["check-plugin", str(target)], standalone_mode=False)
        assert isinstance(result.exception, UsageError)
        assert message in str(result.exception)
