"""The line below "How to reproduce" gives the same keys in a clean place, wherever the options of the run came from."""

import json
import os
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner
from instant import Program

from plad_bench.cli.main import cli
from plad_bench.cli.plan import plan
from plad_bench.cli.state import State
from plad_bench.contract import machine
from plad_bench.leaderboard.loading import load
from plad_bench.records import storage
from plad_bench.running.setup import prepare

MINE = """
from plad_bench import Example, Protocol, Task, hookimpl

@hookimpl
def plad_bench_tasks():
    yield Task(
        name="mine", summary="s", dataset="d", licence="CC0-1.0", redistributable=True, metrics=("length",),
        load=lambda params: [Example(prompt=f"p {k}", references=("r",)) for k in range(50)],
        student="scratch[layers=1,width=16,heads=2,vocabulary=300]", protocol=Protocol(steps=7, sft_lr=1e-05),
    )
"""


@pytest.fixture
def program(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    return Program(tmp_path / "there", monkeypatch)


def recorded(board):
    """Cell -> keys of its responses and scores."""
    found = [storage.read(path) for path in sorted(Path("leaderboards", board, "cells").rglob("*.json"))]
    return {r.cell: {r.key, *(m.key for m in r.metrics.values())} for r in found}


def planned(command):
    """Cell -> keys of its responses and scores, as the line of a page gives them here."""
    arguments = shlex.split(command)[1:]
    arguments[arguments.index("run")] = "plan"
    result = CliRunner().invoke(cli, [*arguments, "--store", "elsewhere", "--json"], standalone_mode=False)
    if result.exception is not None:
        raise result.exception
    told = json.loads(result.stdout)
    return {c["cell"] for c in told["cells"]}, {s["key"] for s in told["stages"]}


def same_in_a_clean_place(board, tmp_path, monkeypatch):
    """Hold every record against what the commands of its board's page plan in an empty directory without variables."""
    made, commands = recorded(board), load(Path("leaderboards", board)).commands
    assert made
    assert all(f"    {line}" in Path("leaderboards", board, "README.md").read_text() for line in commands)
    clean = tmp_path / "clean"
    clean.mkdir()
    monkeypatch.chdir(clean)
    for name in [name for name in os.environ if name.startswith("PLAD_BENCH_")]:
        monkeypatch.delenv(name)
    found = [planned(line) for line in commands]
    cells, keys = set().union(*(c for c, _ in found)), set().union(*(k for _, k in found))
    assert cells == set(made)
    assert set().union(*made.values()) <= keys
    return commands


def test_options_of_every_source_are_in_the_line(program, tmp_path, monkeypatch):
    Path("c.toml").write_text('lr = 0.00012345678\nmethods = ["kd[temperature=2.5]", "plad"]\nsample-temperature = 1\n')
    Path("leaderboards/mine").mkdir(parents=True)
    board = 'metrics = ["length", "rouge-2"]\nseeds_asked = 2\n[protocol]\nbatch = 16\nlora = 4\n'
    Path("leaderboards/mine/board.toml").write_text(f"{board}[tasks.demo]\ntop_k = 7\n")
    monkeypatch.setattr(machine, "processors", lambda: 2)
    given = ("run", "--config", "c.toml", "--board", "mine", "--gpus", "none", "--workers", "1", "--timeout", "900")
    program(*given, PLAD_BENCH_RUN_STEPS="9", PLAD_BENCH_RUN_SPLIT="validation", PLAD_BENCH_RUN_THREADS="2")
    (line,) = same_in_a_clean_place("mine", tmp_path, monkeypatch)
    assert line == (
        "plad-bench run --methods 'kd[temperature=2.5],plad' --metrics length,rouge-2 --seeds 2 --board mine "
        "--threads 2 --steps 9 --lr 0.00012345678 --batch 16 --precision float32 --lora 4 --split validation "
        "--sample-temperature 1.0 --top-k 7"
    )


def test_with_nothing_said_the_line_says_what_the_device_chose(program, tmp_path, monkeypatch):
    program("run", "--methods", "sft", "--gpus", "none")
    assert same_in_a_clean_place("quickstart", tmp_path, monkeypatch) == (
        "plad-bench run --methods sft --precision float32",
    )


@pytest.mark.slow
def test_what_a_board_fixes_is_in_the_lines_of_later_runs(program, tmp_path, monkeypatch):
    program("run", "--methods", "sft", "--gpus", "none", "--steps", "5")
    program("run", "--methods", "sft", "--gpus", "none", "--seeds", "2")
    assert same_in_a_clean_place("quickstart", tmp_path, monkeypatch) == (
        "plad-bench run --methods sft --seeds 2 --steps 5 --precision float32",
        "plad-bench run --methods sft --steps 5 --precision float32",
    )


def test_tasks_whose_protocols_differ_have_a_line_each(program, tmp_path, monkeypatch):
    file = tmp_path / "mine.py"
    file.write_text(MINE)
    Path("leaderboards/b").mkdir(parents=True)
    Path("leaderboards/b/board.toml").write_text("[tasks.demo]\nsteps = 3\n[tasks.mine]\nsteps = 4\n")
    monkeypatch.setattr(cli, "commands", {})
    program(*("-p", str(file), "run", "--task", "demo,mine", "--methods", "sft", "--board", "b", "--gpus", "none"))
    (tmp_path / "clean").mkdir()
    made, commands = recorded("b"), load(Path("leaderboards", "b")).commands
    monkeypatch.chdir(tmp_path)  # where the file lies, which a page shows by its name
    found = [planned(line) for line in commands]
    assert len(commands) == 2
    assert set().union(*(cells for cells, _ in found)) == set(made)
    assert set().union(*made.values()) <= set().union(*(keys for _, keys in found))


def test_what_a_branch_stood_for_is_beside_the_line(program):
    program("run", "--methods", "none", "--gpus", "none")
    with Path("leaderboards/quickstart/board.toml").open("a") as file:
        file.write('\n[commits]\n"model org/name main" = "0a1b"\n')
    program("leaderboard")
    page = Path("leaderboards/quickstart/README.md").read_text()
    assert "On the Hub, `model org/name main` was commit `0a1b`: copy [commits] from board.toml to use it." in page


@pytest.mark.slow
def test_a_trial_and_its_board(program, tmp_path, monkeypatch):
    program("run", "--methods", "sft", "--gpus", "none", "--limit", "3")
    assert same_in_a_clean_place("trial", tmp_path, monkeypatch) == (
        "plad-bench run --methods sft --precision float32 --limit 3",
    )


def test_what_a_gpu_chose_is_said(tmp_path):
    options = plan.make_context("plan", ["--boards-dir", str(tmp_path), "--store", str(tmp_path / "s")]).params
    (line,) = prepare(State().registry, options, (0,)).commands.values()
    assert line == ["run", "--precision", "bf16"]


def test_a_line_holds_no_place_and_no_secret(program, tmp_path):
    (tmp_path / "data.jsonl").write_text(
        "".join(json.dumps({"prompt": f"p {k}", "response": "r"}) + "\n" for k in range(90))
    )
    task = f"jsonl[path={tmp_path / 'data.jsonl'}]"
    program("run", "--task", task, "--methods", "sft", "--student", "tiny", "--board", "b", "--gpus", "none")
    (line,) = load(Path("leaderboards/b")).commands
    assert str(tmp_path) not in line
    assert "--task 'jsonl[path=data.jsonl]'" in line
