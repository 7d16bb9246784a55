"""The ledger of a board: every execution once, with failed and repeated ones, whatever machine ran it."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace

import instant
import numpy as np
import pytest
import synthetic
import tiny

from plad_bench.contract.errors import StageError
from plad_bench.execute import accounting, energy, worker
from plad_bench.execute.usage import Usage
from plad_bench.leaderboard import compute
from plad_bench.leaderboard.loading import load
from plad_bench.records import ledger
from plad_bench.render import tabular_export
from plad_bench_plugins.launchers import local

RUN = ("run", "--methods", "sft", "--metrics", "slot-errors", "--board", "b", "--gpus", "none", "--workers", "1")


@pytest.fixture
def program(tmp_path, monkeypatch):
    return instant.Program(tmp_path, monkeypatch)


def entries(board):
    return [json.loads(line) for path in board.glob("compute/*.jsonl") for line in path.read_text().splitlines()]


def page(board):
    return (board / "README.md").read_text()


def test_each_execution_is_counted_once_however_many_cells_and_seeds_share_it(program, tmp_path):
    board = tmp_path / "leaderboards" / "b"
    program(*RUN)
    first = entries(board)
    assert len(first) == len(program.made) == 13
    program(*RUN, "--seeds", "2")
    told = entries(board)
    assert len(told) - len(first) == len(program.made) > 0
    assert len({e["id"] for e in told}) == len({e["key"] for e in told}) == len(told)
    total = sum(e["cost"]["device_seconds"] for e in told)
    found = load(board).compute
    assert found.complete
    assert found.lost == found.trials == ()
    assert found.total("device_seconds") == pytest.approx(total)
    assert " of device time. A stage that several cells share counts once." in page(board)
    assert "at least" not in page(board)


def test_the_teacher_that_ships_with_the_demo_was_not_executed_for_the_board(program, tmp_path):
    program(*RUN)
    assert "teacher" not in {e["stage"] for e in entries(tmp_path / "leaderboards" / "b")}


def test_a_board_made_from_the_store_counts_what_other_boards_executed(program, tmp_path):
    program(*RUN)
    program(*RUN, "--board", "c")
    assert program.made == []
    boards = tmp_path / "leaderboards"
    assert {e["id"] for e in entries(boards / "b")} == {e["id"] for e in entries(boards / "c")}


def test_repeated_stages_count_as_often_as_they_were_executed(program, tmp_path):
    program(*RUN)
    program(*RUN, "--rerun", "all")
    again = len(program.made)
    assert again
    board = tmp_path / "leaderboards" / "b"
    assert len(load(board).compute.lost) == again
    assert "for attempts that failed or were repeated)" in page(board)


def test_failed_attempts_count_and_are_not_counted_again_when_the_stage_succeeds(program, tmp_path, monkeypatch):
    def failing(context):
        if "method" in context.spec and context.spec["method"]["name"] == "sft" and "seed" in context.spec:
            sum(range(200_000))
            raise StageError("the loss is nan")
        instant.operation(context)

    board = tmp_path / "leaderboards" / "b"
    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=failing))
    program(*RUN, code=1)
    (failed,) = [e for e in entries(board) if e["failed"]]
    assert failed["stage"] == "sft-init"
    assert failed["cost"]["processor_seconds"] > 0
    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=instant.operation))
    program(*RUN)
    assert [e for e in entries(board) if e["failed"]] == [failed]
    shutil.rmtree(board / "compute")
    program(*RUN, "--board", "c")  # the artifact knows of the attempt that failed
    assert [e for e in entries(board.parent / "c") if e["failed"]] == [failed]


def test_a_killed_attempt_counts_with_its_last_account(program, tmp_path, monkeypatch):
    class Killed(instant.Instant):
        def start(self, job, log, slots):
            document = json.loads(job.read_text())
            if document["document"]["stage"] == "distill" and "distill" not in self.made:
                self.made.append("distill")
                accounting.Attempt(tmp_path / "store" / "partial" / document["key"]).update({"device_seconds": 7.5})
                return instant.Done(-9)
            return super().start(job, log, slots)

    monkeypatch.setattr(local, "LocalSession", lambda options: Killed(program.made))
    program(*RUN)
    (killed,) = [e for e in entries(tmp_path / "leaderboards" / "b") if e["failed"]]
    assert (killed["stage"], killed["cost"]) == ("distill", {"device_seconds": 7.5})
    assert "(7.5 s for attempts that failed or were repeated)" in page(tmp_path / "leaderboards" / "b")


def test_trials_are_told_apart_and_counted_in_the_board(program, tmp_path):
    program(*RUN, "--tune", "2")
    told = entries(tmp_path / "leaderboards" / "b")
    trials = [e["stage"] for e in told if e["trial"]]
    assert sorted(trials) == ["distill", "distill", "generate", "generate", "init", "score", "score", "sft-init"]
    assert not (tmp_path / "leaderboards" / "b" / "tuning" / "compute").exists()
    assert " for trials of tuning" in page(tmp_path / "leaderboards" / "b")


@pytest.mark.slow
def test_payments_of_a_run_are_counted_without_those_of_earlier_runs(program, tmp_path, monkeypatch):
    def paid(context):
        if "metric" in context.spec:
            context.budget.reserve(2.0)
            context.budget.settle(2.0, 0.25)
        instant.operation(context)

    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=paid))
    program(*RUN)
    count = program.made.count("score")
    program(*RUN, "--seeds", "2")
    count += program.made.count("score")
    board = tmp_path / "leaderboards" / "b"
    assert load(board).compute.total("money") == pytest.approx(0.25 * count)
    assert f", {0.25 * count:.2f} paid for requests." in page(board)


def test_ledgers_of_two_machines_are_merged_by_copying_and_half_a_line_is_left_out(tmp_path):
    one = ledger.Execution("a", "k", "distill", cost={"device_seconds": 1.0})
    shared = ledger.Execution("s", "t", "teach", cost={"device_seconds": 10.0})
    other = ledger.Execution("b", "k", "distill", cost={"device_seconds": 2.0})
    folder = tmp_path / "compute"
    folder.mkdir()
    (folder / "first.jsonl").write_text(one.line() + shared.line())
    (folder / "second.jsonl").write_text(shared.line() + other.line() + one.line()[:30])
    found = compute.of(ledger.read(tmp_path), [])
    assert found.total("device_seconds") == 13.0
    assert [e.stage for e in found.lost] == ["distill"]  # both machines trained the same cell
    for bad in ("[]", "{}", '{"id": 1}', one.line().replace("1.0", "NaN"), one.line().replace("1.0", "-1"), "nope"):
        (folder / "third.jsonl").write_text(bad)
        assert set(ledger.read(tmp_path)) == {"a", "b", "s"}


def test_records_that_no_ledger_covers_add_what_they_know_each_shared_stage_once(tmp_path):
    shared = {"teacher_device_seconds": 100.0, "sft_init_device_seconds": 50.0}
    for name, train in (("kd", 10.0), ("sft", 20.0)):
        cost = {"train_device_seconds": train, "tokens_trained": 1000.0, **shared}
        data, file = synthetic.record(name, 0, columns={"m": (np.array([0.1, 0.2]), "higher", "")}, cost=cost)
        synthetic.put(tmp_path / "b", data, file)
    board = load(tmp_path / "b")
    assert not board.compute.complete
    assert board.compute.total("device_seconds") == 180.0
    assert board.compute.total("tokens_trained") == 2000.0
    covered = ledger.Execution("x", board.used[0].key, "generate", cost={"device_seconds": 5.0})
    trained = ledger.Execution("y", "k", "distill", cost={"device_seconds": 10.0004})
    (tmp_path / "b" / "compute").mkdir()
    (tmp_path / "b" / "compute" / "run.jsonl").write_text(covered.line() + trained.line())
    found = load(tmp_path / "b").compute
    assert not found.complete
    assert found.total("device_seconds") == pytest.approx(185.0004)
    rows = {row["stage"]: row for row in tabular_export.compute([load(tmp_path / "b")])}
    assert {stage: (row["executions"], row["lost"]) for stage, row in rows.items()} == {
        "distill": (2, 0), "generate": (1, 0), "sft-init": (1, 0), "teach": (1, 0)
    }  # fmt: skip
    assert (rows["distill"]["device_seconds"], rows["distill"]["complete"]) == (pytest.approx(30.0004), False)


# ------------------------------------------------------------------------------------------------------------ energy


def machine(directory, *, joules=0.0, busy=0.0):
    """The files of a machine with two processor packages."""
    for number, name in enumerate(("package-0", "package-1", "psys")):
        place = directory / f"intel-rapl:{number}"
        place.mkdir(parents=True, exist_ok=True)
        (place / "name").write_text(f"{name}\n")
        (place / "max_energy_range_uj").write_text("1000000000\n")
        (place / "energy_uj").write_text(f"{int(joules * 1e6) % 1_000_000_000}\n")
    core = directory / "intel-rapl:0:0"
    core.mkdir(exist_ok=True)
    (core / "name").write_text("core\n")
    (directory / "stat").write_text(f"cpu  {busy * 100:.0f} 0 0 99999 0 0 0 0 0 0\ncpu0 1 1\n")
    return directory


def test_a_process_gets_its_share_of_the_energy_of_all_packages(tmp_path):
    own = [0.0]
    machine(tmp_path, joules=900, busy=1000)
    meter = energy.Rapl(tmp_path, tmp_path / "stat", lambda: own[0])
    own[0] = 10.0
    machine(tmp_path, joules=1500, busy=1040)  # 600 J in each package, past the end of the counter; a quarter is ours
    assert meter.watt_hours() == pytest.approx(2 * 600 / 4 / 3600)
    machine(tmp_path, joules=1600, busy=1050)  # others alone worked: nothing is added yet
    assert meter.watt_hours() == pytest.approx(2 * 600 / 4 / 3600)
    own[0] = 20.0
    machine(tmp_path, joules=1700, busy=1060)
    assert meter.watt_hours() == pytest.approx((2 * 600 / 4 + 2 * 200 / 2) / 3600)


def test_without_counters_or_the_right_to_read_them_nothing_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(energy, "POWERCAP", tmp_path / "none")
    with pytest.raises(FileNotFoundError):
        energy.Rapl(tmp_path / "none")
    assert energy.meter("cuda:0") is None  # there is no GPU, or no package that reads it
    monkeypatch.setattr(energy, "meter", lambda device: None)
    assert set(Usage().cost) == {"device_seconds", "processor_seconds"}


def test_a_gpu_counts_in_millijoules_and_start_up_is_apart(monkeypatch):
    millijoules = [5_000_000]
    monkeypatch.setattr(energy, "meter", lambda device: energy.Nvml(lambda: millijoules[0]))
    usage = Usage("cuda:0", ranks=2)
    millijoules[0] += 360_000
    usage.loaded()
    millijoules[0] += 3_600_000
    cost = usage.cost
    assert (cost["startup_energy_wh"], cost["energy_wh"]) == pytest.approx((0.2, 2.0))  # of both ranks


def test_the_record_and_the_page_show_the_energy_of_training_and_of_the_teacher(program, tmp_path, monkeypatch):
    joules = [0.0]

    class Steady:
        def watt_hours(self):
            joules[0] += 3600
            return joules[0] / 3600

    monkeypatch.setattr(energy, "meter", lambda device: Steady())

    def working(context):
        context.usage.loaded()
        instant.operation(context)

    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=working))
    program(*RUN, "--methods", "seqkd")
    board = tmp_path / "leaderboards" / "b"
    record = json.loads((board / "cells/demo/tiny+small/seqkd/seed-0.json").read_text())
    assert record["cost"]["train_energy_wh"] > 0
    assert record["cost"]["teacher_energy_wh"] > 0
    assert record["cost"]["startup_energy_wh"] > 0
    assert "| Energy of training | Energy of the teacher |" in page(board)
    assert " of measured energy" in page(board)


def test_a_stage_reads_its_usage_while_it_runs(tmp_path):
    context = tiny.context(tmp_path)
    context.usage = Usage(attempt=accounting.Attempt(context.partial))
    context.progress(1, 2)
    (account,) = accounting.attempts(context.partial).values()
    assert set(account) >= {"device_seconds", "processor_seconds"}
