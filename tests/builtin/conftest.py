"""The world of tests/tiny.py in slots of a launcher, and what an undisturbed training in it comes to."""

from __future__ import annotations

import pytest
import tiny
from launching import run, stocked, training


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world"))


@pytest.fixture
def store(world, tmp_path):
    return stocked(world, tmp_path)


@pytest.fixture(scope="module")
def undisturbed(world, tmp_path_factory):
    """What a training of 120 steps comes to."""
    stage = training(steps=120)
    return run(stocked(world, tmp_path_factory.mktemp("undisturbed")), stage).artifacts[stage.key]
