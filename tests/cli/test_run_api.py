"""`plad_bench.run` and the command: the same options, the same records."""

from __future__ import annotations

import inspect
import subprocess
import sys
from typing import get_type_hints

import instant
import pytest

import plad_bench
from plad_bench.cli.run import run as command
from plad_bench.contract.errors import NothingSelectedError, UsageError
from plad_bench.contract.protocol import settings
from plad_bench.records import storage
from plad_bench.running import api, execution


@pytest.fixture
def program(tmp_path, monkeypatch):
    return instant.Program(tmp_path, monkeypatch)


def essences(board):
    return {p.name + p.parent.name: storage.read(p).essence() for p in sorted((board / "cells").glob("**/*.json"))}


def commands(board):
    return {storage.read(p).provenance["command"] for p in sorted((board / "cells").glob("**/*.json"))}


def test_the_same_records_come_from_both_and_each_goes_on_with_the_others(program, tmp_path, monkeypatch, capfd):
    given = {"methods": "sft,kd", "seeds": 2, "tune": 2, "steps": 20, "metrics": "slot-errors", "gpus": "none"}
    words = [word for name, value in given.items() for word in (f"--{name}", str(value))]
    program("run", *words, "--board", "b")
    program.made.clear()
    capfd.readouterr()
    by_command = plad_bench.run(**given, board="b")
    assert program.made == []
    assert [row.label for row in by_command.groups[0].rows] == ["kd", "sft"]
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "another"))
    by_call = plad_bench.run(**given, board="b", boards_dir=tmp_path / "called")
    assert capfd.readouterr() == ("", "")
    assert program.made
    assert essences(tmp_path / "called" / "b") == essences(tmp_path / "leaderboards" / "b")
    assert commands(tmp_path / "called" / "b") == commands(tmp_path / "leaderboards" / "b")
    assert (tmp_path / "called" / "b" / "index.html").is_file()
    assert by_call.settings == by_command.settings
    program("run", *words, "--board", "b", "--boards-dir", str(tmp_path / "called"))
    assert program.made == []


def test_every_option_of_the_command_is_one_of_the_call_and_has_its_default():
    of_command = {p.name: p for p in command.params}
    defaults = command.make_context("run", []).params
    of_call = inspect.signature(api.run).parameters
    own = {"listener", "plugins", "settings"}  # the command line says what happens, and takes plugin files before `run`
    elsewhere = {"config", "dry_run", "as_json"}
    assert of_call.keys() - own == of_command.keys() - settings().keys() - elsewhere
    assert get_type_hints(api.ProtocolSettings).keys() == settings().keys()
    for name in of_call.keys() - own - {"boards_dir", "store"}:
        assert of_call[name].default == defaults[name], name


def test_a_listener_hears_what_the_command_says(program):
    heard = []

    class Ear(execution.Listener):
        def begins(self, planned):
            heard.append(len(planned.todo))

        def says(self, line):
            heard.append(line)

    plad_bench.run(methods="sft", metrics="slot-errors", gpus="none", board="b", tune=2, listener=Ear())
    assert heard[0] == 4
    assert heard[1].startswith("Tuning of sft: 0 of 2 trials done")
    assert heard[2:4] == ["Trial 1 of sft", "Trial 2 of sft[lr=0.00125]"]


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"methods": "pladd"}, UsageError, "unknown method"),
        ({"methods": " "}, NothingSelectedError, "selects no method"),
        ({"stepz": 3}, UsageError, "unknown protocol setting 'stepz'"),
        ({"steps": 0}, UsageError, "steps is 0"),
        ({"seeds": 0}, UsageError, "seeds is 0"),
        ({"rerun": "some"}, UsageError, "rerun is 'some'"),
        ({"board": "a/b"}, UsageError, "not a valid name for a board"),
    ],
)
def test_a_wrong_call_is_an_error_of_ours(program, given, error, message):
    with pytest.raises(error, match=message):
        plad_bench.run(**{"gpus": "none", **given})


def test_the_package_is_light_until_a_run_is_asked_for():
    code = "import sys, plad_bench; print('torch' in sys.modules or 'numpy' in sys.modules or 'click' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
