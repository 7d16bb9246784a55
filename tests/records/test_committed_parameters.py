"""A run with the present code adds rows to the committed boards: its records name the same parameters as theirs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny

BOARDS = sorted(path.parent for path in (Path(__file__).parents[2] / "leaderboards").glob("*/cells"))


@pytest.mark.parametrize("board", BOARDS, ids=[board.name for board in BOARDS])
def test_a_parameter_that_was_added_since_is_not_said_at_its_default(board):
    registry, seen = tiny.registry(), set()
    for file in (board / "cells").rglob("seed-*.json"):
        record = json.loads(file.read_text(encoding="utf-8"))
        for kind in ("task", "teacher", "student", "method"):
            name, params = record[kind]["name"], record[kind]["params"]
            if (kind, name) in seen or name in {"teacher", "student", "sft-init"}:
                continue
            seen.add((kind, name))
            component = registry.get(kind, name)
            assert component.params(**params).public().keys() == params.keys(), f"{kind} {name}"
    assert len(seen) >= 4
