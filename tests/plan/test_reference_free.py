"""Tasks of prompts alone: the SFT initialisation learns from the teacher's text; what reads references is absent."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import tiny

from plad_bench.contract.errors import NothingSelectedError
from plad_bench.contract.registry import Registry
from plad_bench.plan import matrix, spec
from plad_bench.records import storage

STUDENT = "scratch[layers=1,width=16,heads=2,vocabulary=300]"
ROWS = [{"prompt": f"thing[lamp {n}] colour[{c}]"} for n in range(30) for c in ("red", "blue")]


@pytest.fixture
def prompts(tmp_path, monkeypatch):
    """A directory with prompts alone, and what a teacher said to them."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    said = [{**row, "response": f"Lamp of {row['prompt']}."} for row in ROWS]
    (tmp_path / "said.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    return tmp_path


def cells(
    methods,
    *,
    task="jsonl[path=prompts.jsonl,response=]",
    teacher="recorded[path=said.jsonl]",
    student=STUDENT,
    **more,
):
    run = spec.build(tiny.registry(), task=task, methods=methods, student=student, teacher=teacher, **more)
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_the_warm_start_learns_from_the_teacher_instead(prompts):
    found = cells("seqkd,plad")
    warmup = found["sft-init"].checkpoint
    assert warmup.spec["method"]["name"] == "seqkd"
    assert warmup.inputs["teach"] is found["seqkd"].plan.teach
    assert found["plad"].checkpoint.inputs["model"] is found["plad"].plan.sft_init
    said = cells("seqkd", task="jsonl[path=said.jsonl]")["sft-init"].checkpoint
    assert said.spec["method"]["name"] == "sft"
    assert set(said.inputs) == {"data", "model"}


def test_what_reads_references_is_skipped_with_that_reason(prompts):
    found = cells(
        "sft,seqkd,kd,kd[data=teacher],distillm[data=teacher],dpo,rkl",
        student="llama-1b",
        teacher="llama-8b",
        pairs="teacher-over-student,reference-over-student",
    )
    said = {row: cell.skip.removesuffix(", but the task has none") for row, cell in found.items() if cell.method}
    assert said["sft"] == "sft trains on references"
    assert said["kd"] == "kd trains on references"
    assert said["distillm[data=teacher]"] == "distillm uses the loss on validation references"
    assert said["dpo+reference-over-student"] == "reference-over-student builds pairs with references"
    assert said["seqkd"] == said["dpo"] == ""
    assert not any("references" in said[row] for row in ("kd[data=teacher]", "rkl"))


def test_nothing_can_start_where_the_teacher_itself_learns_from_references(prompts):
    found = cells("seqkd", teacher="small")
    assert {cell.skip for cell in found.values()} == {
        "small is fine-tuned on references first, but the task has none",
    }


def test_metrics_that_read_references_are_absent_and_no_default(prompts):
    assert [m.label for m in cells("seqkd")["seqkd"].metrics] == ["length", "agreement"]
    named = cells("seqkd", metrics="rouge-l,length,win-lc,nll")["seqkd"]
    assert dict(named.absent) == {
        label: f"{label} needs references, but the task has none" for label in ("rouge-l", "win-lc", "nll")
    }
    assert list(named.scores) == ["length"]


def test_a_task_all_of_whose_metrics_read_references_needs_others_named(prompts):
    class Only(Registry):
        """Has jsonl rank by ROUGE alone."""

        def find(self, kind, name):
            found = super().find(kind, name)
            only = {"component": replace(found.component, metrics=("rouge-l",))} if name == "jsonl" else {}
            return replace(found, **only)

    with pytest.raises(NothingSelectedError, match="has no references, but all its default metrics need them"):
        spec.build(Only.load(), task="jsonl[path=prompts.jsonl,response=]", methods="seqkd", student=STUDENT)


@pytest.mark.slow
def test_a_run_on_prompts_alone_ends_with_a_board(prompts):
    command = [
        *("run", "--task", "jsonl[path=prompts.jsonl,response=]", "--teacher", "recorded[path=said.jsonl]"),
        *("--student", STUDENT, "--methods", "sft,seqkd", "--board", "mine", "--gpus", "none", "--lr", "1e-3"),
        *("--steps", "3", "--sft-steps", "4", "--batch", "8", "--max-new-tokens", "8", "--sft-lr", "3e-3"),
    ]
    result = subprocess.run(
        [sys.executable, "-m", "plad_bench", *command],
        env={**os.environ, "PLAD_BENCH_STORE": str(prompts / "store")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "skipped: sft: sft trains on references, but the task has none" in result.stderr
    records = [storage.read(path) for path in (prompts / "leaderboards/mine/cells").rglob("*.json")]
    assert {r.method.name: r.status for r in records} == {
        **dict.fromkeys(["teacher", "student", "sft-init", "seqkd"], "done"),
        "sft": "skipped",
    }
    (warmup,) = (r for r in records if r.method.name == "sft-init")
    assert warmup.metrics["length"].n == warmup.counts["data.test_prompts"]
    assert {"teach", "sft-init"} <= set(warmup.timing)
    assert warmup.counts["data.references"] == 0
