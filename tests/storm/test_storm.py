"""The storm, short form: each fault at a moment or two. `python tests/storm/storm.py` is the long form."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import faults
import storm
import world

pytestmark = [
    pytest.mark.storm,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc and mounts file systems"),
]
SEED = 1000
"""Other moments than those of the long form."""


@pytest.fixture(scope="module")
def server():
    with storm.serving() as one:
        yield one


@pytest.fixture(scope="module")
def undisturbed(server, tmp_path_factory):
    """name of a matrix -> (the matrix, what its records say, seconds)"""
    known = {}

    def find(name):
        if name not in known:
            matrix = storm.matrices(server)[name]
            known[name] = (matrix, *world.undisturbed(matrix, tmp_path_factory.mktemp(name)))
        return known[name]

    return find


SHORT = [
    *(("driver: SIGKILL", "paid"), ("driver: SIGTERM", "fake"), ("ctrl-C", "fake"), ("worker: SIGKILL", "paid")),
    *(("fork server: SIGKILL", "fake"), ("two drivers at once", "fake"), ("too many open files", "fake")),
    *(("disk full", "fake"), ("store becomes read-only", "paid"), ("clock jumps", "fake"), ("flipped byte", "paid")),
    *(("damaged record", "fake"), ("stale locks and half-written files", "fake")),
    *(("endpoint hangs, cuts, garbles, refuses", "paid"), ("torn checkpoint", "real-1")),
]


@pytest.mark.parametrize(("fault", "matrix"), SHORT)
def test_after_a_fault_the_same_command_comes_to_the_same(undisturbed, tmp_path, fault, matrix):
    known = faults.FAULTS[fault]
    if not storm.applies(known):
        pytest.skip("needs root")
    where, expected, seconds = undisturbed(matrix)
    storm.strike(known, where, SEED, tmp_path / "place", expected, seconds)


def test_the_storm_notices_broken_promises(undisturbed, tmp_path):
    """Without this, a storm that finds nothing would say nothing."""
    matrix, expected, _ = undisturbed("fake")
    one = world.World(matrix, tmp_path / "place")
    assert one.wait(one.start()) == 0
    one.check(expected, kept=one.finished())
    with pytest.raises(world.StormError, match="records differ"):
        one.check({cell: text.replace("done", "failed") for cell, text in expected.items()})
    with pytest.raises(world.StormError, match="other cells are recorded"):
        one.check({})
    with pytest.raises(world.StormError, match="done again, or lost"):
        one.check(expected, kept={**one.finished(), "0" * 64: 1})
    (one.cells / ".left.tmp").touch()
    with pytest.raises(world.StormError, match="files were left behind"):
        one.check(expected)
