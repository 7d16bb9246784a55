"""The command that the project is known by, with no other option, on a family of models that a hub serves in small."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import family
import hubserver
import pytest

from plad_bench.leaderboard.loading import load

PLUGIN = Path(__file__).parents[1] / "plugins" / "toy_family.py"


def program(hub, place, *arguments):
    """Run plad-bench with a hub, in an empty place, on processors."""
    environment = {
        **os.environ,
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(place / "hf"),
        "HF_HUB_OFFLINE": "0",
        "HF_TOKEN": "",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "PLAD_BENCH_STORE": str(place / "store"),
        "PLAD_BENCH_RUN_GPUS": "none",
        "PLAD_BENCH_PLAN_GPUS": "none",
    }
    command = [sys.executable, "-m", "plad_bench", "-p", str(PLUGIN), *arguments]
    made = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return made


@pytest.mark.slow
def test_students_of_a_published_family_are_distilled_with_no_other_option(tmp_path):
    pytest.importorskip("datasets")
    with hubserver.serving() as hub:
        for name, directory in family.make(tmp_path / "family").items():
            hub.publish(name, directory)
        shown = program(hub, tmp_path, "plan", "--methods", "plad,kd", "--student", "toy-100m", "--show-prompt")
        run = program(hub, tmp_path, "run", "--methods", "plad,kd", "--student", "toy-30m")
        again = program(hub, tmp_path, "run", "--methods", "plad,kd", "--student", "toy-30m")
    # An instruct teacher is prompted, by its chat template.
    assert "teacher toy-300m-instruct: used as it is" in shown.stderr
    assert "<|im_start|>user" in shown.stdout
    # A base teacher is fine-tuned, for epochs of the data, and its best checkpoint teaches.
    (group,) = load(tmp_path / "leaderboards" / "tldr-toy-30m").groups
    assert "recipe: full fine-tuning, 20 M to 0.3 B parameters" in run.stderr
    assert f"(recipe: 3 epochs of {group.data['train_prompts']:.0f} prompts at batch 8)" in run.stderr
    assert "select=best" in group.teacher
    assert group.selected is not None
    assert group.selected.points == 4
    # The teacher is better than its student, and the distilled students than their initialisation.
    rows = {row.label: row.estimates["rouge-l"].value for row in (*group.baselines, *group.rows)}
    assert group.primary.name == "rouge-l"
    assert rows["teacher"] > max(rows["kd"], rows["plad"])
    assert min(rows["kd"], rows["plad"]) > rows["sft-init"] + 0.02
    assert rows["sft-init"] > rows["student"] + 0.02
    # The same command has nothing left to do.
    assert "5 cached" in again.stderr
    record = next((tmp_path / "leaderboards").rglob("teacher/seed-0.json"))
    told = json.loads(record.read_text())["provenance"]["notes"]["teacher"]["selected"]
    assert told["metric"] == "rouge-l"
    assert told["values"][str(told["step"])] == max(told["values"].values())
