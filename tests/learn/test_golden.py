"""Two training steps of every built-in method, against what was recorded of them (golden.json).

A change that moves these values changes what every later run measures. If it is meant to, give the methods that it
touches a new version and write the file anew with `python tests/learn/test_golden.py`; a refactoring leaves them alone.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path

import pytest
import tiny

RECORDED = Path(__file__).with_name("golden.json")
METHODS = sorted(
    name
    for name, found in tiny.registry().components("method").items()
    if found[0].origin.distribution.startswith("plad-bench ")
)


def ready(directory):
    """A world in which every method can train."""
    world = tiny.World(directory)
    world.inputs["reference"] = world.run("reference", {"precision": "float32"})
    return world


def measured(world, method):
    """What the method reports of each of two steps."""
    return tiny.curve(world.train(method, steps=2, lr=3e-3, max_new_tokens=6))


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return ready(tmp_path_factory.mktemp("world"))


@pytest.mark.parametrize("method", METHODS)
def test_two_steps_give_what_they_gave_when_they_were_recorded(world, method):
    """Within what two processors may differ by, which tests/rounding.py imitates."""
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))[method]
    for mine, theirs in zip(measured(world, method), recorded, strict=True):
        assert mine.pop("gradient_norm") == pytest.approx(theirs.pop("gradient_norm"), rel=2e-2)
        assert mine == pytest.approx(theirs, rel=5e-4, abs=2e-5)


def test_nothing_is_recorded_of_a_method_that_is_not_there():
    assert sorted(json.loads(RECORDED.read_text(encoding="utf-8"))) == METHODS


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        here = ready(Path(place))
        values = {method: measured(here, method) for method in METHODS}
    RECORDED.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
