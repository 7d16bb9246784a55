"""The plugin API keeps its promise: it is what its version says, older names work and warn, newer plugins are refused.

`python tests/contract/test_api.py` rewrites the snapshot of all names.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import json
import sys
import types
from pathlib import Path

import pytest
import tiny
from click.testing import CliRunner

import plad_bench
from plad_bench import API_VERSION, Asks, Tools
from plad_bench.cli.main import cli
from plad_bench.contract import hookspecs
from plad_bench.contract.errors import ExitCode
from plad_bench.contract.money import Budget
from plad_bench.contract.registry import Registry

SNAPSHOT = Path(__file__).with_name("api.json")


def described(value):
    """The names within a name of the API: fields, methods, members or parameters."""
    if isinstance(value, type) and issubclass(value, enum.Enum):
        return [member.name for member in value]
    if dataclasses.is_dataclass(value):
        return sorted({f.name for f in dataclasses.fields(value)} | methods(value))
    if hasattr(value, "model_fields"):
        return sorted({*value.model_fields} | methods(value))
    if isinstance(value, type):
        return sorted({*inspect.get_annotations(value)} | methods(value))
    return list(inspect.signature(value).parameters) if inspect.isfunction(value) else []


def methods(cls):
    own = {name: value for name, value in vars(cls).items() if not name.startswith("_")}
    return {name for name, value in own.items() if isinstance(value, types.FunctionType | property | classmethod)}


def api():
    names = {name: described(getattr(plad_bench, name)) for name in plad_bench.__all__ if name != "__version__"}
    hooks = {n: described(f) for n, f in vars(hookspecs).items() if n.startswith("plad_bench_") and callable(f)}
    return {"version": API_VERSION, "names": names, "hooks": hooks}


def test_the_api_is_what_its_version_says():
    assert api() == json.loads(SNAPSHOT.read_text()), (
        "the plugin API changed: see docs/plugins.md (Versions of the API), add what changed to CHANGELOG.md, raise "
        "API_VERSION if no change since the last release has, and run python tests/contract/test_api.py"
    )


# ------------------------------------------------------------------------------------------------------- older names


@pytest.mark.parametrize(("former", "now"), [("Asking", "RequestContext"), ("Question", "Request")])
def test_an_older_name_is_the_present_one_and_warns(former, now):
    with pytest.warns(
        DeprecationWarning, match=f"plad_bench.{former} is now plad_bench.{now}; .* next version"
    ) as seen:
        assert getattr(plad_bench, former) is getattr(plad_bench, now)
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=former):
        exec(f"from plad_bench import {former}")


def test_an_older_name_in_its_former_module_works_too():
    from plad_bench.contract import records

    with pytest.warns(DeprecationWarning, match="import RequestContext from plad_bench") as seen:
        assert records.Asking is plad_bench.RequestContext
    assert [w.filename for w in seen] == [__file__]


def context(**given):
    values = {"split": "train", "max_new_tokens": 4, "temperature": 0.0, "top_k": 0, "seed": 0, "same": str}
    report = {"progress": print, "counts": {}, "cost": {}, "notes": {}}
    return plad_bench.RequestContext(**values, **report, **given)


def test_older_fields_are_read_and_given_with_a_warning():
    budget, place = Budget(), Path("answers")
    made = context(response_cache=place, budget=budget)
    with pytest.warns(
        DeprecationWarning, match=r"RequestContext\.journal is now RequestContext\.response_cache"
    ) as seen:
        assert made.journal is place
    assert seen[0].filename == __file__
    with pytest.warns(DeprecationWarning, match=r"RequestContext\.purse is now RequestContext\.budget"):
        assert made.purse is budget
    with pytest.warns(DeprecationWarning, match=r"RequestContext\(journal=\) is now RequestContext\(response_cache=\)"):
        older = context(journal=place, budget=budget)
    assert older == made
    with pytest.warns(DeprecationWarning, match=r"Asks\(questions=\) is now Asks\(requests=\)") as seen:
        asks = Asks(questions=2, tokens_out=1, price=None)
    assert seen[0].filename == __file__
    assert asks == Asks(requests=2, tokens_out=1, price=None)


def test_older_tools_of_a_metric_work_with_a_warning(tmp_path):
    from plad_bench.execute.stages.score import _Tools

    tools = _Tools(tiny.context(tmp_path))
    for former, now in {"journal": "response_cache", "purse": "budget", "thrift": "memory_policy"}.items():
        with pytest.warns(DeprecationWarning, match=f"Tools.{former} is now Tools.{now}"):
            assert getattr(tools, former) is getattr(tools, now)
    assert isinstance(tools, Tools)


# --------------------------------------------------------------------------------- the version that a plugin asks for

METRIC = """
from plad_bench import Metric, hookimpl

@hookimpl
def plad_bench_metrics():
    yield Metric(name="house", summary="M.", better=None, score=lambda e, p, t: [0.0] * len(e))
"""


def plugin(tmp_path, version, body=METRIC):
    file = tmp_path / "house.py"
    file.write_text(f"PLAD_BENCH_API = {version}\n{body}")
    return file


def test_a_plugin_that_asks_for_this_version_is_loaded(tmp_path):
    for version in (1, API_VERSION):
        registry = Registry.load([plugin(tmp_path, version)])
        assert registry.broken == []
        assert registry.get("metric", "house").name == "house"


def test_a_plugin_that_asks_for_a_newer_version_is_left_out_by_name_and_the_rest_works(tmp_path):
    newer = plugin(tmp_path, API_VERSION + 1, "from plad_bench import WhatThereIsNot\n" + METRIC)
    registry = Registry.load([newer])
    (broken,) = registry.broken
    assert (broken.origin.plugin, broken.origin.distribution) == ("house", "house.py")
    assert broken.cause == (
        f"it needs version {API_VERSION + 1} of the plugin API, but this plad-bench has version {API_VERSION}. "
        "Upgrade plad-bench, or install an older version of the plugin."
    )
    assert registry.get("metric", "length").name == "length"
    checked = CliRunner().invoke(cli, ["check-plugin", str(newer)], standalone_mode=False)
    assert checked.return_value == ExitCode.PLUGIN
    assert f"it needs version {API_VERSION + 1}" in checked.output


def test_an_installed_plugin_is_asked_before_it_is_imported(tmp_path, monkeypatch):
    plugin(tmp_path, API_VERSION + 1, "raise RuntimeError('imported')")
    info = tmp_path / "house-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: house\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[plad_bench]\nhouse = house\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    (broken,) = Registry.load().broken
    assert broken.origin.distribution == "house 1.0"
    assert "it needs version" in broken.cause
    assert "house" not in sys.modules


def test_a_version_that_is_none_is_said_to_be(tmp_path):
    (broken,) = Registry.load([plugin(tmp_path, "'two'")]).broken
    assert "PLAD_BENCH_API is not an integer. Write it as a constant: PLAD_BENCH_API = " in broken.cause


if __name__ == "__main__":
    SNAPSHOT.write_text(json.dumps(api(), indent=1) + "\n")
