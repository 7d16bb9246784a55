"""What SECURITY.md promises, where no test of another file shows it; and that every test it names is there."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
from pages import ROOT
from standin import endpoint

from plad_bench.contract.errors import MissingError
from plad_bench.contract.names import BOARD_NAME
from plad_bench.plan import matrix, spec

PLUGIN = Path(__file__).parents[1] / "plugins" / "mini.py"
SOURCES = [path for part in ("plad_bench", "plugins") for path in (ROOT / part).rglob("*.py")]


# ------------------------------------------------------------------------------------------------ files of other people


def _calls(path):
    """(name, keyword arguments) of every call in a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}


def problems(path):
    """Calls of a file that could run code which comes with data."""
    for name, given in _calls(path):
        last = name.rpartition(".")[2]
        if name in {"eval", "exec", "pickle.load", "pickle.loads", "marshal.loads", "os.system", "yaml.load"}:
            yield name
        if name == "torch.load" and given.get("weights_only") != "True":
            yield f"{name} without weights_only"
        if given.get("trust_remote_code", "False") != "False" or given.get("allow_pickle", "False") != "False":
            yield f"{name} with {given}"
        if given.get("shell", "False") != "False":
            yield f"{name} with a shell"
        if (
            last == "from_pretrained"
            and not name.startswith("GenerationConfig")
            and given.get("trust_remote_code") != "False"
        ):
            yield f"{name} without trust_remote_code=False"


def test_no_call_runs_code_that_comes_with_data():
    found = [f"{path.relative_to(ROOT)}: {problem}" for path in SOURCES for problem in problems(path)]
    assert found == []


def test_a_call_that_would_is_found(tmp_path):
    (tmp_path / "bad.py").write_text("torch.load(p)\nAutoModel.from_pretrained(p)\nnp.load(p, allow_pickle=True)\n")
    assert len(list(problems(tmp_path / "bad.py"))) == 3


@pytest.fixture
def evil(tmp_path):
    """A model directory whose configuration asks for code beside it, which leaves a mark where it is run."""
    from plad_bench.learn import models

    directory, mark = tmp_path / "evil", tmp_path / "mark"
    models.save(tiny.llama(), tiny.tokenizer(), directory)
    code = f"open({str(mark)!r}, 'w')\nfrom transformers import LlamaConfig as Config, LlamaForCausalLM as Model\n"
    (directory / "code.py").write_text(code)
    config = json.loads((directory / "config.json").read_text())
    config |= {"model_type": "evil", "auto_map": {"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"}}
    (directory / "config.json").write_text(json.dumps(config))
    return directory, mark


def test_code_that_comes_with_a_model_is_never_run(evil):
    from plad_bench.learn import models

    directory, mark = evil
    with pytest.raises(MissingError, match="cannot be loaded"):
        models.load(directory, "cpu", "float32")
    assert not mark.exists()


def test_a_training_checkpoint_with_a_pickle_runs_nothing(tmp_path):
    import pickle

    import torch

    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "mark"), "w")

    torch.save(Evil(), tmp_path / "state.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(
            tmp_path / "state.pt", weights_only=True
        )  # as learn/training.py does: the test above holds it to that
    assert not (tmp_path / "mark").exists()


# --------------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", ["../up", "/etc", "a/../../b", "..", "a\\b", "x\x00y", ".hidden", "~root", "c:d"])
def test_no_name_of_a_board_or_a_cell_leads_out_of_its_directory(name, tmp_path):
    assert BOARD_NAME.fullmatch(name) is None
    run = spec.build(tiny.registry(), task="demo", methods="none")
    cell = matrix.cells(run, tiny.registry())[0]

    moved = (tmp_path / "cells" / f"{replace(cell, row=name).id}.json").resolve()
    assert moved.is_relative_to(tmp_path / "cells")


# -------------------------------------------------------------------------------------------------------------- plugins


def test_nothing_that_lies_in_the_working_directory_is_run_unless_it_is_named(tmp_path):
    """Neither a plugin's file nor one with the name of a package that workers import."""
    body = "from pathlib import Path\nPath(__file__).with_suffix('.mark').touch()\n"
    names = ("house", "plad_bench_house", "torch", "transformers", "scipy", "conftest", "sitecustomize")
    for name in names:
        (tmp_path / f"{name}.py").write_text(body)
    program = Path(sys.executable).with_name("plad-bench")
    place = {"PLAD_BENCH_STORE": str(tmp_path / "store"), "COLUMNS": "160"}

    def marks(*arguments):
        made = subprocess.run(
            [program, *arguments],
            cwd=tmp_path,
            env={**os.environ, **place},
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        return {path.stem for path in tmp_path.glob("*.mark")}

    probe = "import os, sys; sys.exit('' in sys.path or os.getcwd() in sys.path)"
    (tmp_path / "probe.py").write_text(
        "import subprocess, sys\nfrom plad_bench import hookimpl, Check, Finding\n"
        f"def run():\n    made = subprocess.run([sys.executable, '-c', {probe!r}])\n"
        "    yield Finding(ok=made.returncode == 0, message='path')\n"
        "@hookimpl\ndef plad_bench_checks():\n    yield Check(name='path', summary='Path?', run=run)\n"
    )
    assert marks("plugins") == set()
    assert (
        marks("-p", "probe.py", "doctor") == set()
    )  # whatever is started from here has no working directory in its path
    assert marks("-p", "house.py", "plugins") == {"house"}


@pytest.mark.slow
def test_workers_import_nothing_from_the_working_directory(tmp_path):
    for name in ("torch", "transformers", "tokenizers", "scipy", "rouge_score"):
        (tmp_path / f"{name}.py").write_text("from pathlib import Path\nPath(__file__).with_suffix('.mark').touch()\n")
    teacher = "scratch[layers=1,width=24,heads=2,vocabulary=300,steps=2]"
    run = ("-p", str(PLUGIN), "run", "--task", "mini", "--methods", "none", "--limit", "8", "--gpus", "none")
    made = subprocess.run(
        [Path(sys.executable).with_name("plad-bench"), *run, "--teacher", teacher],
        cwd=tmp_path,
        env={**os.environ, "PLAD_BENCH_STORE": str(tmp_path / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    assert list(tmp_path.glob("*.mark")) == []


# -------------------------------------------------------------------------------------------------------------- secrets


@pytest.mark.slow
def test_no_secret_gets_into_a_file_a_log_the_process_list_or_a_page(tmp_path):
    """Of a whole run with a teacher behind an endpoint, which repeats the key and fails with it now and then."""
    secrets = {"OPENAI_API_KEY": "sk-SECRET-5e1f", "HF_TOKEN": "hf_SECRET5e1f"}
    listed = []

    def reply(prompt):
        listed.append(subprocess.run(["ps", "-eww", "-o", "args"], capture_output=True, text=True, check=False).stdout)
        return f"about {prompt}"

    with endpoint(reply=reply, faults=lambda p, n: (500, {}, secrets["OPENAI_API_KEY"]) if n == 1 else None) as server:
        teacher = f"openai[model=m,base_url={server.url},concurrency=1]"
        run = ("-p", str(PLUGIN), "run", "--task", "mini", "--methods", "none", "--teacher", teacher, "--gpus", "none")
        made = subprocess.run(
            [sys.executable, "-m", "plad_bench", *run, "--limit", "3", "--sft-steps", "1", "--metrics", "length"],
            cwd=tmp_path,
            env={**os.environ, **secrets, "PLAD_BENCH_STORE": str(tmp_path / "store")},
            capture_output=True,
            text=True,
            check=False,
        )
    assert made.returncode == 0, made.stderr
    assert listed
    for secret in secrets.values():
        assert not any(secret in text for text in (made.stdout, made.stderr, *listed))
        kept = [path for path in tmp_path.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]
        assert kept == []


# ---------------------------------------------------------------------------------------------------------- SECURITY.md


def test_every_line_of_the_promises_names_a_test_that_is_there():
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ") and not line.startswith(("| promise", "| :"))]
    assert len(rows) >= 6
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, test in named:
            assert f"def {test}(" in (ROOT / file).read_text(encoding="utf-8"), f"{file} has no {test}"
