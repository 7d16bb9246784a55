"""`doctor`: every check has its say, a bad one costs its own line, and what it finds is told with a remedy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import types
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from plad_bench import Check, Finding
from plad_bench.cli import plugin_checks
from plad_bench.cli.doctor import examine
from plad_bench.cli.main import cli, main
from plad_bench.contract.registry import Registry
from plad_bench_plugins.checks import backends, hub, machine, packages


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))


def doctor(*before, expect=0, **environment):
    """The findings of the command, by check."""
    result = CliRunner().invoke(cli, [*before, "doctor", "--json"], env=environment, standalone_mode=False)
    assert result.exception is None, result.output
    assert result.return_value == expect, result.output
    found = {}
    for row in json.loads(result.stdout)["findings"]:
        found.setdefault(row["check"], []).append(row)
    return found


def plugin(tmp_path, source):
    file = tmp_path / "house.py"
    file.write_text(f"from plad_bench import Check, Finding, Metric, hookimpl\n{source}")
    return ["-p", str(file)]


def found_by(function):
    return [(f.level, f.message) for f in function()]


# -------------------------------------------------------------------------------------------------------- the command


def test_all_is_well_here_and_nothing_is_left_behind(tmp_path):
    found = doctor()
    assert {row["level"] for name, rows in found.items() if name not in {"hub", "hub-cache"} for row in rows} == {"ok"}
    assert set(found) >= {"python", "packages", "gpus", "memory", "hub", "store", "boards", "plugins", "variables"}
    assert list(tmp_path.iterdir()) == []


def test_the_text_names_every_check_and_counts_on_stderr():
    result = CliRunner().invoke(cli, ["doctor"], standalone_mode=False)
    assert [line.split()[0] for line in result.stdout.splitlines() if line[0] != " "].count("failed") == 0
    assert " 0 failed" in result.stderr


def test_a_plugins_check_runs_and_its_failure_is_the_exit_code(tmp_path):
    source = """
@hookimpl
def plad_bench_checks():
    yield Check(name="tape", summary="Is there a tape?",
                run=lambda: [Finding(ok=False, message="no tape", remedy="Buy one.")])
"""
    found = doctor(*plugin(tmp_path, source), expect=1)
    assert found["tape"] == [{"check": "tape", "level": "failed", "message": "no tape", "remedy": "Buy one."}]


def test_a_warning_is_no_failure(tmp_path):
    source = """
@hookimpl
def plad_bench_checks():
    yield Check(name="tape", summary="", run=lambda: [Finding(ok=True, message="old tape", remedy="Buy one.")])
"""
    assert doctor(*plugin(tmp_path, source))["tape"][0]["level"] == "warning"


def test_a_check_that_raises_hangs_or_talks_nonsense_costs_its_own_line():
    def late():
        yield Finding(ok=True, message="before")
        raise SystemExit(3)

    def run(function):
        return Check(name="x", summary="", run=function)

    hangs = threading.Event()
    well = Finding(ok=True, message="well")
    checks = [run(late), run(lambda: 1 / 0), run(hangs.wait), run(lambda: ["well"]), run(lambda: [well])]
    first, raises, hung, nonsense, fine = examine(checks, timeout=2)
    assert [f.message for f in first] == ["before", "the check itself failed: SystemExit: 3"]
    assert "ZeroDivisionError" in raises[0].message
    assert (hung[0].ok, hung[0].message) == (False, "timed out after 2 s")
    assert "yielded str, not Finding" in nonsense[0].message
    assert fine == [well]
    assert not any(f.ok for f in (first[1], *raises, *nonsense))


def test_a_slow_check_runs_only_when_that_is_asked_for(tmp_path):
    source = """
@hookimpl
def plad_bench_checks():
    yield Check(name="tape", summary="Is it long?", run=lambda: [Finding(ok=False, message="no")], slow=True)
"""
    before = plugin(tmp_path, source)
    assert doctor(*before)["tape"][0]["message"] == "slow check, not run: Is it long? Run it with --slow."
    result = CliRunner().invoke(cli, [*before, "doctor", "--slow", "--json"], standalone_mode=False)
    assert result.return_value == 1
    assert {"check": "tape", "level": "failed", "message": "no", "remedy": ""} in json.loads(result.stdout)["findings"]


# ---------------------------------------------------------------------------------------------- plad-bench's own state


def test_a_hook_that_does_not_exist_is_named_with_the_one_that_was_meant(tmp_path):
    found = doctor(*plugin(tmp_path, "@hookimpl\ndef plad_bench_metric():\n    return []\n"), expect=1)
    assert "plad_bench_metric, which is not a hook" in found["hooks"][0]["message"]
    assert "plad_bench_metrics" in found["hooks"][0]["remedy"]


def test_a_broken_hook_and_a_conflict_are_named(tmp_path):
    source = """
@hookimpl
def plad_bench_metrics():
    yield Metric(name="length", summary="", better=None, score="a:b")
    raise RuntimeError("bad day")
"""
    messages = [row["message"] for row in doctor(*plugin(tmp_path, source), expect=1)["plugins"]]
    assert any("house.py (house) is broken: plad_bench_metrics: RuntimeError: bad day" in m for m in messages)
    assert any("metric length is registered twice, by" in m and "house.py" in m for m in messages)


def test_a_plugin_with_a_heavy_import_at_the_top_is_named_and_tolerated(tmp_path, monkeypatch):
    (tmp_path / "ray.py").write_text("")  # stands in for the real one, which takes seconds
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", types.ModuleType("ray"))
    hook = "from plad_bench import hookimpl\n\n@hookimpl\ndef plad_bench_methods():\n    return []\n"
    found = doctor(*plugin(tmp_path, f"import ray\n{hook}"))
    (warning,) = [row for row in found["plugins"] if row["level"] == "warning"]
    assert warning["message"].startswith("house imports ray at the top")


def test_a_place_that_cannot_be_written_fails(tmp_path):
    (tmp_path / "file").write_text("")
    found = doctor(PLAD_BENCH_STORE=str(tmp_path / "file" / "store"), expect=1)
    assert "is a file" in found["store"][0]["message"]
    assert "--store" in found["store"][0]["remedy"]


def test_a_full_disk_is_a_warning(tmp_path, monkeypatch):
    monkeypatch.setattr(plugin_checks, "LITTLE_DISK", float("inf"))
    assert {doctor()[name][0]["level"] for name in ("store", "boards")} == {"warning"}


@pytest.mark.parametrize(
    ("name", "meant"),
    [("PLAD_BENCH_RUN_STEP", "PLAD_BENCH_RUN_STEPS"), ("PLAD_BENCH_STOER", "PLAD_BENCH_STORE"), ("PLAD_BENCH_X", "")],
)
def test_a_mistyped_variable_is_named_by_doctor_and_by_every_command(name, meant):
    (row,) = doctor(**{name: "1"})["variables"]
    assert row["level"] == "warning"
    assert name in row["message"]
    assert meant in row["remedy"]
    result = CliRunner().invoke(cli, ["status"], env={name: "1"}, standalone_mode=False)
    assert [line for line in result.stderr.splitlines() if name in line and meant in line]


def test_variables_that_are_read_are_not_complained_of(tmp_path, monkeypatch):
    monkeypatch.setattr(cli, "commands", {})  # what the plugin adds must not outlive the test
    names = {"PLAD_BENCH_RUN_STEPS": "3", "PLAD_BENCH_CACHE_PRUNE_DAYS": "2", "PLAD_BENCH_DEBUG": "1"}
    source = """
import click
@hookimpl
def plad_bench_commands(cli):
    cli.add_command(click.Command("greet", params=[click.Option(["--how"])]))
"""
    found = doctor(*plugin(tmp_path, source), PLAD_BENCH_GREET_HOW="1", **names)
    assert found["variables"] == [{"check": "variables", "level": "ok", "message": "all are known", "remedy": ""}]


def test_a_bad_value_from_a_variable_names_the_variable(monkeypatch, capsys):
    monkeypatch.setenv("PLAD_BENCH_RUN_STEPS", "many")
    with pytest.raises(SystemExit) as stop:
        main(["run"])
    assert stop.value.code == 2
    assert "PLAD_BENCH_RUN_STEPS" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["run", "--steps", "many"])
    assert "PLAD_BENCH_RUN_STEPS" not in capsys.readouterr().err


def test_no_variable_that_is_exported_here_reaches_a_test():
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); import os; print([n for n in os.environ if 'PLAD' in n])"
    conftest = Path(__file__).parents[1] / "conftest.py"
    environment = {**os.environ, "PLAD_BENCH_RUN_STEPS": "7", "PLAD_BENCH_STORE": "/nowhere"}
    shown = subprocess.run([sys.executable, "-c", code, conftest], env=environment, capture_output=True, check=True)
    assert shown.stdout.decode().strip() == "[]"


# ------------------------------------------------------------------------------------------------- the built-in checks


def test_a_package_outside_of_its_range_or_absent_fails(monkeypatch):
    assert next(level for level, _ in found_by(packages.packages)) == "ok"
    real = metadata.version

    def version(name):
        if name == "safetensors":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "torch" else real(name)

    monkeypatch.setattr(packages.metadata, "version", version)
    messages = [message for level, message in found_by(packages.packages) if level == "failed"]
    assert any("torch 1.0 is not supported" in m for m in messages)
    assert any("safetensors is not installed" in m for m in messages)


def test_another_python_fails(monkeypatch):
    monkeypatch.setattr(packages.platform, "python_version", lambda: "3.9.1")
    ((level, message),) = found_by(packages.python)
    assert level == "failed"
    assert "3.9.1" in message


def test_versions_other_than_the_tested_are_told_and_no_failure(monkeypatch):
    real = metadata.version
    monkeypatch.setattr(packages.metadata, "version", lambda name: "9.9" if name == "click" else real(name))
    assert any("click 9.9 (8" in message for level, message in found_by(packages.packages) if level == "ok")


def smi(tmp_path, monkeypatch, script):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{script}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")


def test_gpus_are_listed_and_a_torch_that_cannot_use_them_fails(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "echo '0, NVIDIA H200, 143771 MiB, 580.1'")
    monkeypatch.setattr(machine, "_TORCH", "print('none', 0)")
    listed, torch = found_by(machine.gpus)
    assert listed == ("ok", "0: NVIDIA H200, 143771 MiB, driver 580.1")
    assert torch[0] == "failed"
    monkeypatch.setattr(machine, "_TORCH", "print('13.0', 1)")
    assert found_by(machine.gpus)[1] == ("ok", "torch (CUDA 13.0) sees 1")


def test_a_driver_that_fails_is_told(tmp_path, monkeypatch):
    smi(tmp_path, monkeypatch, "echo 'Driver/library version mismatch'; exit 18")
    assert found_by(machine.gpus) == [("failed", "nvidia-smi failed: Driver/library version mismatch")]


def test_no_gpu_is_fine(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    if not list(Path("/dev").glob("nvidia[0-9]*")):
        assert found_by(machine.gpus) == [("ok", "none; runs use the CPU")]


def test_offline_is_a_warning():
    ((level, message),) = found_by(hub.hub)
    assert level == "warning"
    assert "HF_HUB_OFFLINE" in message


def test_an_address_is_shown_without_its_password():
    assert hub._without_credentials("https://me:secret@hub.local:1/x") == "https://hub.local:1/x"


def test_every_check_that_comes_with_plad_bench_has_a_question():
    registry = Registry.load()
    context = click.Context(cli)
    own = plugin_checks.own_checks(context, registry, Path("store"), Path("boards"))
    for check in [*own, *(r.component for found in registry.components("check").values() for r in found)]:
        assert check.summary.endswith("?")


# ------------------------------------------------------------------------------------------------------------- backends


def test_without_vllm_there_is_nothing_to_compare(monkeypatch):
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    monkeypatch.setattr(backends, "_compared", lambda: pytest.fail("compared"))
    ((level, message),) = found_by(backends.backends)
    assert (level, message.split(";")[0]) == ("ok", "vLLM is not installed")


@pytest.mark.parametrize(
    ("found", "level", "message"),
    [
        ({"device": "cpu", "prompts": 4, "differing": []}, "ok", "generate 4 equal greedy texts, float32 on cpu"),
        (
            {"device": "cuda:0", "prompts": 4, "differing": [["A w", 2]]},
            "failed",
            "1 of 4 greedy texts, float32 on cuda",
        ),
        ({"error": "vLLM failed: no device"}, "failed", "vLLM failed: no device"),
    ],
)
def test_backends_that_part_are_a_finding_with_a_remedy(monkeypatch, found, level, message):
    monkeypatch.setattr(backends, "find_spec", lambda name: "there")
    monkeypatch.setattr(backends, "_compared", lambda: found)
    (finding,) = backends.backends()
    assert finding.level == level
    assert message in finding.message
    assert ("--backend transformers" in finding.remedy) == (level == "failed")


def test_texts_are_compared_token_by_token(monkeypatch):
    """The engine is faked: it says what transformers says, but for the third prompt's sixth token."""
    from plad_bench.learn import backend_parity, models
    from plad_bench.learn.generation import generate

    def engine(path, device, precision, prompts, rounds):
        made = generate(*models.load(path, device, precision), prompts, rounds[0])
        made[2] = replace(made[2], ids=(*made[2].ids[:5], 0, *made[2].ids[6:]))
        return [made], 0

    monkeypatch.setattr(backend_parity.vllm_engine, "generate", engine)
    assert backend_parity.compare("cpu") == {
        "device": "cpu",
        "prompts": len(backend_parity.PROMPTS),
        "differing": [(backend_parity.PROMPTS[2], 5)],
    }


@pytest.mark.slow
def test_the_comparison_has_a_process_of_its_own_and_says_why_it_failed(monkeypatch, tmp_path):
    (tmp_path / "vllm.py").write_text("raise ImportError('no such device')")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    assert backends._compared() == {"error": "vLLM failed: ImportError: no such device"}
