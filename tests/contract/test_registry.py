"""Plugins: each loaded on its own, found by kind and name, and never able to stop the others."""

from __future__ import annotations

import importlib.metadata
import re
import types
from pathlib import Path

import pytest
import tiny

from plad_bench.contract import registry as module
from plad_bench.contract.components import Metric
from plad_bench.contract.errors import PluginError, UsageError
from plad_bench.contract.events import Event
from plad_bench.contract.hookspecs import hookimpl
from plad_bench.contract.params import Params, param
from plad_bench.contract.registry import Registry

HEAD = "from plad_bench import *\nfrom plad_bench import hookimpl, Metric, Student, HubModel, Params, param\n\n\n"
METRIC = '    yield Metric(name="{name}", summary="", better=None, score=lambda examples, params, scorers: [])\n'
GOOD = HEAD + "@hookimpl\ndef plad_bench_metrics():\n" + METRIC.format(name="shout")


def plugin(tmp_path, source, name="house"):
    file = tmp_path / f"{name}.py"
    file.write_text(source)
    return file


def builtin_names(registry):
    return set(registry.components("metric"))


def test_a_plugin_file_adds_to_what_there_is(tmp_path):
    registry = Registry.load([plugin(tmp_path, GOOD)])
    assert registry.broken == []
    found = registry.find("metric", "shout")
    assert (found.origin.plugin, found.origin.distribution, found.origin.editable) == ("house", "house.py", True)
    assert builtin_names(registry) == builtin_names(tiny.registry()) | {"shout"}
    assert registry.get("metric", "rouge-l").name == "rouge-l"


HOOK = "@hookimpl\ndef plad_bench_metrics():\n"
BROKEN = {
    "syntax error": (GOOD + "def (:\n", "SyntaxError"),
    "missing import": ("import a_package_that_nobody_has\n" + GOOD, "ModuleNotFoundError.*a_package_that_nobody_has"),
    "raises at import": (GOOD + "raise RuntimeError('bad day')\n", "RuntimeError: bad day"),
    "exits at import": (GOOD + "raise SystemExit(3)\n", "SystemExit: 3"),
    "wrong signature": (
        GOOD + "\n\n@hookimpl\ndef plad_bench_tasks(wrong):\n    return []\n",
        "PluginValidationError.*plad_bench_tasks",
    ),
    "raising hook": (HEAD + HOOK + "    raise RuntimeError('bad day')\n", "plad_bench_metrics: RuntimeError: bad day"),
    "exiting hook": (HEAD + HOOK + "    raise SystemExit(3)\n", "plad_bench_metrics: SystemExit: 3"),
    "returns nothing": (HEAD + HOOK + "    return None\n", "plad_bench_metrics: TypeError"),
    "yields a dict": (HEAD + HOOK + "    yield dict(name='shout')\n", "TypeError: yielded dict, not Metric"),
    "yields another record": (
        HEAD + HOOK + "    yield Student(name='shout', summary='', model=lambda p: HubModel(id='a/b'))\n",
        "TypeError: yielded Student, not Metric",
    ),
    "bad name": (HEAD + HOOK + METRIC.format(name="Shout Loud"), "invalid name 'Shout Loud': use lower-case letters"),
    "name with a path": (HEAD + HOOK + METRIC.format(name="../shout"), "invalid name '../shout'"),
    "params of another kind": (
        HEAD + HOOK + "    yield Metric(name='shout', summary='', better=None, score='a:b', params=dict)\n",
        "shout: params must be a subclass",
    ),
    "missing field": (HEAD + HOOK + "    yield Metric(name='shout', summary='')\n", "TypeError.*better"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_plugin_costs_only_itself(tmp_path, case):
    source, cause = BROKEN[case]
    fine = plugin(tmp_path, GOOD.replace("shout", "whisper"), "fine")
    registry = Registry.load([plugin(tmp_path, source), fine])
    assert builtin_names(registry) == builtin_names(tiny.registry()) | {"whisper"}
    for kind in module.KINDS:
        registry.components(kind)
    (broken,) = registry.broken
    assert (broken.origin.plugin, broken.origin.distribution) == ("house", "house.py")
    assert re.search(cause, broken.cause, re.DOTALL)
    assert registry.get("method", "kd").name == "kd"


def test_asking_for_something_of_a_broken_plugin_is_a_plugin_error_with_the_cause(tmp_path):
    registry = Registry.load([plugin(tmp_path, BROKEN["raises at import"][0])])
    with pytest.raises(PluginError, match=r"unknown metric 'shout'.*house.py: RuntimeError: bad day") as caught:
        registry.find("metric", "shout")
    assert caught.value.exit_code == 4
    with pytest.raises(UsageError, match="Did you mean"):
        registry.find("metric", "rouge")


def test_what_a_hook_yielded_before_it_failed_is_kept(tmp_path):
    registry = Registry.load([plugin(tmp_path, GOOD + "    raise RuntimeError('late')\n")])
    assert registry.get("metric", "shout").name == "shout"
    assert [b.cause for b in registry.broken] == ["plad_bench_metrics: RuntimeError: late"]


def test_a_file_that_is_not_there_is_broken_not_fatal(tmp_path):
    registry = Registry.load([tmp_path / "absent.py", tmp_path])
    assert [b.cause.split(":")[0] for b in registry.broken] == ["ImportError", "ImportError"]
    assert registry.get("metric", "rouge-l")


def test_a_name_that_two_plugins_register_is_an_error_that_names_both(tmp_path):
    files = [plugin(tmp_path, GOOD, "one"), plugin(tmp_path, GOOD, "two")]
    registry = Registry.load(files)
    assert registry.broken == []
    with pytest.raises(PluginError, match=r"metric 'shout' is registered twice, by one\.py and two\.py"):
        registry.find("metric", "shout")
    assert registry.get("metric", "rouge-l")
    clash = Registry.load([plugin(tmp_path, GOOD.replace("shout", "rouge-l"))])
    with pytest.raises(PluginError, match=r"registered twice, by plad-bench \S+ and house.py"):
        clash.find("metric", "rouge-l")


class Entry:
    """What importlib.metadata knows of an entry point."""

    def __init__(self, name, load):
        self.name, self.value, self.dist, self._load = name, f"{name}_package", None, load
        self.module = self.value

    def load(self):
        return self._load()


def test_a_broken_entry_point_costs_only_itself(monkeypatch):
    def bad():
        raise ImportError("no such module")

    good = types.SimpleNamespace(plad_bench_metrics=hookimpl(lambda: [metric("shout")], specname="plad_bench_metrics"))
    mine = [Entry("bad", bad), Entry("good", lambda: good)]
    real = importlib.metadata.entry_points(group=module.GROUP)
    monkeypatch.setattr(module, "entry_points", lambda group: [*mine, *real])
    registry = Registry.load()
    assert [(b.origin.plugin, b.cause) for b in registry.broken] == [("bad", "ImportError: no such module")]
    assert registry.get("metric", "shout")
    assert registry.get("metric", "rouge-l")


def metric(name, params=Params, score=lambda examples, params, scorers: []):
    return Metric(name=name, summary="", better=None, score=score, params=params)


# ------------------------------------------------------------------------------------------------ names and parameters


@pytest.mark.parametrize(
    ("name", "remedy"),
    [
        ("roug-l", "Did you mean rouge-l"),
        ("ROUGE-L", "Did you mean rouge-l"),
        ("rou", "rouge-1"),
        ("xyz", "Available: "),
    ],
)
def test_an_unknown_name_comes_with_near_matches(name, remedy):
    with pytest.raises(UsageError, match=f"unknown metric '{name}'") as caught:
        tiny.registry().find("metric", name)
    assert remedy in caught.value.remedy
    assert caught.value.exit_code == 2


class Knobs(Params):
    """Every kind of knob."""

    above: float = param(1.0, gt=0)
    share: float = param(0.5, ge=0, le=1)
    count: int = param(3, ge=1, lt=10)
    flag: bool = param(default=False)
    maybe: int | None = param(None, ge=1)
    text: str = param("x", min_length=1)
    place: Path | None = param(None, local=True)


@pytest.mark.parametrize(
    ("values", "message", "remedy"),
    [
        ({"above": "0"}, r"knobby\[above=0\]: .*greater than 0", "Allowed: number > 0; default 1.0."),
        ({"share": "1.5"}, r"knobby\[share=1.5\]", "Allowed: number >= 0 and <= 1; default 0.5."),
        ({"count": "10"}, r"knobby\[count=10\]", "Allowed: integer >= 1 and < 10; default 3."),
        ({"count": "2.5"}, "valid integer", "Allowed: integer >= 1 and < 10; default 3."),
        ({"flag": "perhaps"}, "valid boolean", "Allowed: boolean; default false."),
        ({"maybe": "0"}, "greater than or equal to 1", "Allowed: integer >= 1; default null."),
        ({"counts": "3"}, "knobby has no parameter 'counts'", "Did you mean count?"),
        ({"zzz": "3"}, "knobby has no parameter 'zzz'", "Available: above, share, count, flag, maybe, text, place."),
    ],
)
def test_a_value_out_of_range_is_told_what_is_allowed(values, message, remedy):
    with pytest.raises(UsageError, match=message) as caught:
        Registry.configure(metric("knobby", Knobs), values)
    assert caught.value.remedy == remedy


def test_text_of_the_command_line_becomes_typed_values():
    given = {"above": "2", "share": "0", "count": "7", "flag": "true", "maybe": "5", "text": "1", "place": "a/b"}
    made = Registry.configure(metric("knobby", Knobs), given)
    assert made == Knobs(above=2.0, share=0.0, count=7, flag=True, maybe=5, text="1", place=Path("a/b"))
    assert Registry.configure(metric("knobby", Knobs), made.model_dump(mode="json")) == made
    assert Registry.configure(metric("knobby", Knobs), {}) == Knobs()


def test_parameters_cannot_be_changed_or_added():
    with pytest.raises(ValueError, match="frozen"):
        Knobs().count = 4
    with pytest.raises(ValueError, match="Extra inputs"):
        Knobs(other=1)


def test_a_local_path_is_public_by_its_content_alone(tmp_path):
    place = tmp_path / "weights"
    place.write_bytes(b"one")
    first = Knobs(place=place).public()["place"]
    assert first.startswith("sha256:")
    place.write_bytes(b"two")
    assert Knobs(place=place).public()["place"] != first
    assert Knobs(place=tmp_path / "nowhere").public()["place"] == "absent"


# --------------------------------------------------------------------------------------------- plugins being edited


def test_a_component_of_a_plugin_file_is_keyed_by_its_source(tmp_path):
    from plad_bench.plan.chosen import choose

    def public(source):
        registry = Registry.load([plugin(tmp_path, source)])
        return choose(registry, "metric", "shout")[0].public()

    first = public(GOOD)
    assert re.fullmatch(r"[0-9a-f]{64}", first["source"])
    assert public(GOOD) == first
    assert public(GOOD.replace("[])", "[0])")) != first
    assert "source" not in choose(tiny.registry(), "metric", "rouge-l")[0].public()


def test_a_function_named_in_another_file_is_part_of_the_source(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    helper = tmp_path / "a_scoring_helper.py"
    helper.write_text("def score(examples, params, scorers):\n    return []\n")
    source = GOOD.replace("lambda examples, params, scorers: []", "'a_scoring_helper:score'")
    first = Registry.load([plugin(tmp_path, source)]).find("metric", "shout").source_hash
    helper.write_text("def score(examples, params, scorers):\n    return [1]\n")
    assert Registry.load([plugin(tmp_path, source)]).find("metric", "shout").source_hash != first


def test_a_function_that_cannot_be_resolved_is_named():
    with pytest.raises(PluginError, match="cannot resolve 'plad_bench:nothing'"):
        module.resolve("plad_bench:nothing")
    with pytest.raises(PluginError, match="cannot resolve 'no_such_module:f'"):
        module.resolve("no_such_module:f")
    assert module.resolve("json:dumps") is __import__("json").dumps


# ------------------------------------------------------------------------------------------------------- observation


def test_an_observer_that_fails_is_named_and_the_others_are_told(tmp_path, caplog):
    told = "from plad_bench import hookimpl\nseen = []\n\n\n@hookimpl\ndef plad_bench_run_started(event):\n"
    bad = plugin(tmp_path, told + "    raise RuntimeError('bad day')\n", "bad")
    good = plugin(tmp_path, told + "    seen.append(event)\n", "good")
    registry = Registry.load([bad, good])
    event = Event(kind="run_started", name="x", status="started", data={"cells": 1})
    registry.notify(event)
    assert registry.manager.get_plugin("good (good.py)").seen == [event]
    assert "plugin bad (bad.py) failed in plad_bench_run_started" in caplog.text
    assert "bad day" in caplog.text
