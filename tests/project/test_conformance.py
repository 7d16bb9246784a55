"""What the harness expects of components: all that are registered keep it, one that does not is caught and named."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from click.testing import CliRunner

from plad_bench import Access, Example, Method, Metric, PairObjective, Params, Student, Task, Term, Text, TokenObjective
from plad_bench.cli.main import cli
from plad_bench.conformance import broken, verdicts
from plad_bench.contract.errors import UsageError
from plad_bench.contract.registry import KINDS

EVERY = [
    pytest.param(found[0].component, id=f"{kind}-{name}")
    for kind in KINDS
    for name, found in tiny.registry().components(kind).items()
]
ROOT = Path(__file__).parents[2]
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
