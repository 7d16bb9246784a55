"""Packages of plugins, those that `new-plugin` writes and those in examples/plugins, used as a stranger would."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.cli.new_plugin import KINDS
from plad_bench.contract.errors import UsageError

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "confident-kd": ("method", "confident-kd[power=2]"),
    "repeated-ngrams": ("metric", "repeated-ngrams[n=2]"),
    "spelled-dates": ("task", "spelled-dates"),
}
"""Package in examples/plugins -> the kind of its component, which has the package's name, and a text of its page."""


def call(*arguments):
    result = CliRunner().invoke(cli, list(map(str, arguments)), standalone_mode=False)
    assert result.exception is None, result.output
    assert not result.return_value, result.output
    return result


def checked(package, kind):
    """That `check-plugin` has nothing to say about a package's component."""
    rows = json.loads(call("check-plugin", package, "--json").stdout)["checks"]
    assert {(row["kind"], row["name"], row["level"]) for row in rows} == {(kind, package.name, "ok")}


def stranger(package, directory):
    """Execute what the README of a package says, in a virtual environment of its own.

    But for pip's isolation and resolution: what the package needs is installed here, and found by a path file.
    """
    pytest.importorskip("hatchling")
    pytest.importorskip("editables")
    venv = directory / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--system-site-packages", str(venv)], check=True)
    (site,) = venv.glob("lib/python*/site-packages")
    parents = [path for path in sys.path if "site-packages" in path] + [str(ROOT), str(ROOT / "plugins")]
    (site / "parents.pth").write_text("\n".join(parents))
    place = {"PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "PLAD_BENCH_STORE": str(directory / "store")}
    (lines,) = re.findall(r"```sh\n(.*?)```", (package / "README.md").read_text(), re.DOTALL)
    install, test, *others = lines.replace("plad-bench ", "python -m plad_bench ").splitlines()
    install = f"python -m {install} --no-build-isolation --no-deps -q"
    for line in (
        install,
        f"python -m {test} -W error::DeprecationWarning",
        *others,
        "python -m plad_bench plugins --json",
    ):
        made = subprocess.run(
            ["bash", "-c", line], cwd=package, env={**os.environ, **place}, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, f"{line}\n{made.stdout}\n{made.stderr}"
    return json.loads(made.stdout)["components"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_new_package_is_installed_tested_checked_and_shows_up(tmp_path, kind):
    call("new-plugin", f"my-{kind}", "--kind", kind, "--in", tmp_path)
    package, module = tmp_path / f"my-{kind}", f"my_{kind.replace('-', '_')}"
    written = {p.relative_to(package).as_posix(): p.read_text() for p in package.rglob("*") if p.is_file()}
    assert set(written) == {"pyproject.toml", "README.md", f"{module}.py", f"tests/test_{module}.py"}
    assert [path for path, text in written.items() if "$" in text] == []
    for command in ("check", "format --check") if have("ruff") else ():
        made = subprocess.run(
            [sys.executable, "-m", "ruff", *command.split(), "--no-cache"],
            cwd=package, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stdout + made.stderr
    checked(package, KINDS[kind].name)
    components = stranger(package, tmp_path)[KINDS[kind].name]
    assert f"my-{kind} 0.1.0" in {c["distribution"] for c in components}
    assert list((package / "leaderboards" / "trial" / "cells").rglob("seed-0.json")) != []


def have(module):
    return subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_package_keeps_every_claim(name):
    checked(ROOT / "examples" / "plugins" / name, EXAMPLES[name][0])


def test_every_example_package_is_tried():
    assert {path.parent.name for path in (ROOT / "examples" / "plugins").glob("*/pyproject.toml")} == set(EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_package_is_installed_tested_checked_and_gets_its_board(tmp_path, name):
    package = tmp_path / name
    shutil.copytree(ROOT / "examples" / "plugins" / name, package)
    kind, shown = EXAMPLES[name]
    assert f"{name} 0.1.0" in {c["distribution"] for c in stranger(package, tmp_path)[kind]}
    (page,) = (package / "leaderboards").glob("*/README.md")
    assert shown in page.read_text()


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
