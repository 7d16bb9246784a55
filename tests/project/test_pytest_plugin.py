"""The fixtures for tests of plugins, in sessions of their own: what they hold, what they say, and what they cost."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
from pages import DOCS, ROOT

QUICK = """
import house
import pytest

from plad_bench import Task
from plad_bench.testing import token_loss


def test_a_component_and_the_module_are_fine(plad_bench_check):
    plad_bench_check(house.METHOD)


def test_a_component_is_not(plad_bench_check):
    plad_bench_check(house.BAD)


def test_the_module_is_not(plad_bench_check):
    plad_bench_check(house)


def test_what_is_no_component_is_refused(plad_bench_check):
    with pytest.raises(TypeError, match="'kd' is not a component"):
        plad_bench_check("kd")


def test_the_models(tiny_models):
    student, teacher, labels = tiny_models.batch([("red door", "The door is red."), ("blue cup", "A cup.")])
    assert student.shape == teacher.shape == (*labels.shape, len(tiny_models.student.tokenizer))
    assert (labels[0] != -100).sum() > (labels[1] != -100).sum() > 2
    token_loss(house.METHOD, student, teacher, labels).backward()
    assert all(p.grad is None for p in tiny_models.teacher.model.parameters())
    assert any(p.grad.abs().sum() > 0 for p in tiny_models.student.model.parameters())
    tiny_models.student.sample(["red door"], temperature=0)


def test_the_task(tiny_task, plad_bench_check):
    assert isinstance(tiny_task, Task)
    plad_bench_check(tiny_task)
"""
HOUSE = """
import dataclasses

from plad_bench import Access, Method, Term, Text, TokenObjective, hookimpl


def loss(student, teacher, labels, params):
    from plad_bench.learn.divergences import forward_kl

    return forward_kl(student, teacher)


def naive(student, teacher, labels, params):
    return -(teacher.softmax(-1) * student.softmax(-1).log()).sum(-1)


METHOD = Method(
    name="house", summary="Ours.", paper="none", title="Ours", equation="KL(p || q)", access=Access.LOGITS,
    objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
)
BAD = dataclasses.replace(METHOD, name="bad", objective=TokenObjective(terms=(Term(loss=naive, text=Text.REFERENCE),)))


@hookimpl
def plad_bench_methods():
    yield METHOD
    yield BAD
"""


def session(directory, *options, **files):
    """Execute pytest as an author does, but for warnings, which are errors."""
    for name, text in files.items():
        (directory / f"{name}.py").write_text(text)
    command = [sys.executable, "-m", "pytest", "-W", "error", "-p", "no:cacheprovider", "-o", "pythonpath=.", *options]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)


def test_the_fixtures_hold_a_plugin_against_its_claims(tmp_path):
    made = session(tmp_path, "-rA", house=HOUSE, test_house=QUICK)
    found = re.findall(r"^(PASSED|FAILED) test_house.py::(\w+)", made.stdout, re.MULTILINE)
    assert {name: outcome for outcome, name in found} == {
        "test_a_component_and_the_module_are_fine": "PASSED",
        "test_a_component_is_not": "FAILED",
        "test_the_module_is_not": "FAILED",
        "test_what_is_no_component_is_refused": "PASSED",
        "test_the_models": "PASSED",
        "test_the_task": "PASSED",
    }, made.stdout + made.stderr
    assert "method bad: the loss and its gradient are finite" in made.stdout
    assert made.stdout.count("Work in log space: log_softmax(-1) instead of softmax(-1).log()") >= 2
    assert "Traceback" not in made.stdout


def test_the_plugin_of_pytest_imports_nothing_of_plad_bench_until_it_is_asked(tmp_path):
    """Everybody's pytest loads it."""
    code = "import sys, json\n\n\ndef test_it():\n    print(json.dumps(sorted(sys.modules)))\n"
    made = session(tmp_path, "-s", test_it=code)
    assert made.returncode == 0, made.stdout
    loaded = set(json.loads(re.search(r"\[.*\]", made.stdout)[0]))
    ours = {name for name in loaded if name.split(".")[0] in {"plad_bench", "plad_bench_plugins"}}
    assert ours == {"plad_bench", "plad_bench.pytest_plugin"}
    assert not loaded & {"torch", "transformers", "pydantic", "numpy"}


@pytest.mark.slow
def test_the_example_of_the_page_passes(tmp_path):
    page = (DOCS / "add-a-method.md").read_text().split("## Fixtures for pytest")[-1]
    source = re.search(r"```python\n(.*?)```", page, re.DOTALL)[1]
    made = session(tmp_path, my_method=(ROOT / "examples/my_method.py").read_text(), test_my_method=source)
    assert made.returncode == 0, made.stdout + made.stderr
    assert "3 passed" in made.stdout


@pytest.mark.slow
def test_a_run_that_fails_says_what_it_printed(tmp_path):
    source = """
import house


def test_a_name_that_is_unknown(throwaway_board):
    throwaway_board(house, methods="houses")
"""
    made = session(tmp_path, house=HOUSE, test_house=source)
    assert made.returncode == 1
    assert "ended with exit code 2" in made.stdout
    assert "unknown method 'houses'" in made.stdout
    assert "Did you mean house" in made.stdout
