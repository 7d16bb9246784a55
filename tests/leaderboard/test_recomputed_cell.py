"""A cell of a committed board, computed again, has the metrics of its record. Which cell changes with every commit."""

from __future__ import annotations

import json
import math
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from plad_bench import run

ROOT = Path(__file__).parents[2]
LONGEST_S = 45.0
"""Device time of the training of a cell, as recorded, above which this test does not choose it."""


def commit() -> str:
    told = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return told.stdout.strip()


def drawn(seed: str) -> Path:
    """The record of a trained cell of the board demo."""
    every = sorted((ROOT / "leaderboards" / "demo" / "cells").rglob("seed-*.json"))
    trained = [f for f in every if json.loads(f.read_text())["cost"].get("train_device_seconds", math.inf) < LONGEST_S]
    return random.Random(seed).choice(trained)


@pytest.mark.slow
def test_a_recorded_cell_gives_its_metrics_again(tmp_path):
    """A copy of the board lacks one record, and its run computes that one alone."""
    file = drawn(commit())
    before = json.loads(file.read_text(encoding="utf-8"))
    boards = tmp_path / "leaderboards"
    shutil.copytree(ROOT / "leaderboards" / "demo", boards / "demo")
    copied = boards / file.relative_to(ROOT / "leaderboards")
    copied.unlink()
    others = {other: other.read_bytes() for other in boards.rglob("seed-*.json")}

    run(
        board="demo",
        methods=before["method"]["selector"],
        seeds=before["seed"] + 1,
        boards_dir=boards,
        store=tmp_path / "store",
        gpus="none",
    )

    after = json.loads(copied.read_text(encoding="utf-8"))
    assert {other: other.read_bytes() for other in others} == others, "only the missing record is written"
    assert after["key"] == before["key"]
    assert after["counts"]["data.train_prompts"] == before["counts"]["data.train_prompts"]
    for name, metric in before["metrics"].items():
        again = after["metrics"][name]
        assert again["n"] == metric["n"], name
        # Another processor rounds otherwise, and so trains another model, as good as this one.
        apart = 4 * math.hypot(metric["stderr"], again["stderr"])
        assert again["value"] == pytest.approx(metric["value"], abs=apart), f"{name} of {before['cell']}"
