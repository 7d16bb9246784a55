"""The engine's queue: what it does when stages fail."""

from __future__ import annotations

import json
from types import SimpleNamespace

import instant
import pytest

from plad_bench.contract.errors import StageError
from plad_bench.execute import worker
from plad_bench_plugins.launchers import local

RUN = ("run", "--methods", "sft,seqkd", "--metrics", "slot-errors", "--board", "b", "--gpus", "none", "--workers", "1")


@pytest.fixture
def program(tmp_path, monkeypatch):
    def failing(context):
        if "metric" in context.spec:
            raise StageError("no score")
        instant.operation(context)

    made = instant.Program(tmp_path, monkeypatch)
    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=failing))
    return made


def test_nothing_new_is_started_after_the_failures_that_are_allowed(program):
    result = program(*RUN, "--max-failures", "1", code=1)
    assert program.made.count("score") == 1
    assert "0 done, 0 cached, 0 skipped, 5 failed" in result.stderr
    assert "not started: --max-failures was reached" in result.stderr


def test_without_a_limit_every_cell_is_tried(program):
    program(*RUN, code=1)
    assert program.made.count("score") == 5


def test_a_worker_killed_right_after_it_finished_leaves_no_partial_files(tmp_path, monkeypatch):
    class Late(instant.Instant):
        def start(self, job, log, slots):
            done = super().start(job, log, slots)
            (tmp_path / "store" / "partial" / json.loads(job.read_text())["key"] / "attempts").mkdir(parents=True)
            return done

    program = instant.Program(tmp_path, monkeypatch)
    monkeypatch.setattr(local, "LocalSession", lambda options: Late(program.made))
    program(*RUN)
    assert list((tmp_path / "store" / "partial").iterdir()) == []
