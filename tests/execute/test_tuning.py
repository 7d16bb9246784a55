"""Equal tuning: what is searched, what is tried, how it goes on after an interruption, and what a record says of it."""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import replace
from types import SimpleNamespace

import instant
import numpy as np
import pytest
import synthetic
import tiny

import plad_bench
from plad_bench.contract.errors import MissingError, StageError, UsageError
from plad_bench.execute import tuning, worker
from plad_bench.leaderboard import across_tasks
from plad_bench.leaderboard.loading import load
from plad_bench.plan import matrix, search, spec
from plad_bench.plan.trials import Trial, Tuning
from plad_bench.records import storage
from plad_bench.render.write import render_board

BEST = 2.5e-3
"""The learning rate at which the methods of `program` do best."""
HIGHEST = 6e-3
"""Trials of `sft` and `kd` at a higher rate fail."""
RUN = (
    "run",
    "--methods",
    "sft,kd",
    "--metrics",
    "slot-errors",
    "--board",
    "b",
    "--gpus",
    "none",
    "--workers",
    "1",
)


def operation(context):
    """As `instant.operation`, with errors that grow with the distance of the learning rate from BEST."""
    instant.operation(context)
    stage, inputs = context.spec, context.inputs
    if "method" in stage:
        if stage["lr"] > HIGHEST and context.spec["method"]["name"] in {"sft", "kd"} and stage["seed"] == search.SEED:
            raise StageError("the loss is nan at step 3")
        (context.out / "lr").write_text(str(stage["lr"]))
    for role in ("model", "responses"):
        if role in inputs and (file := inputs[role].path / "lr").is_file() and "method" not in stage:
            (context.out / "lr").write_text(file.read_text())
    if "metric" in stage:
        lr = float(file.read_text()) if (file := inputs["responses"].path / "lr").is_file() else 1.0
        error = min(abs(math.log10(lr / BEST)), 4) / 4
        (context.out / "values.json").write_text(json.dumps({row["id"]: error for row in instant.PROMPTS}))


@pytest.fixture
def program(tmp_path, monkeypatch):
    made = instant.Program(tmp_path, monkeypatch)
    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=operation))
    return made


def cells(board, folder="."):
    """The records of a board by cell."""
    place = board / folder / "cells"
    return {p.relative_to(place).as_posix()[:-5]: storage.read(p) for p in sorted(place.glob("**/*.json"))}


def cell(method, **overrides):
    """The first cell of a method on the demo."""
    run = spec.build(tiny.registry(), task="demo", methods=method, overrides={"demo": overrides})
    return next(c for c in matrix.cells(run, tiny.registry()) if c.method is not None)


# --------------------------------------------------------------------------------------------------- what is searched


def test_the_rate_is_always_searched_and_what_a_selector_sets_never_is():
    (rate,) = search.space(cell("sft", lr=2e-3))
    assert (rate.name, rate.log, rate.default) == ("lr", True, 2e-3)
    assert (rate.low, rate.high) == pytest.approx((2e-4, 2e-2))
    assert [d.name for d in search.space(cell("kd"))] == ["lr", "ce_weight", "temperature"]
    assert [d.name for d in search.space(cell("kd[temperature=2]"))] == ["lr", "ce_weight"]
    assert [d.name for d in search.space(cell("kd[lr=0.01,ce_weight=0.2]"))] == ["temperature"]
    assert {d.name: d.whole for d in search.space(cell("skd"))} == {"lr": False, "k": True}
    with pytest.raises(UsageError, match=r"nothing of sft\[lr=0.01\] is left to tune"):
        search.space(cell("sft[lr=0.01]"))


def test_default_values_are_the_method_itself_and_others_are_another_method():
    kd = cell("kd")
    space = search.space(kd)
    assert search.tuned(kd, space, search.defaults(space)) == kd.method
    other = search.tuned(kd, space, {**search.defaults(space), "lr": 2e-3, "temperature": 4.0})
    assert other.label == "kd[lr=0.002,temperature=4]"


def test_a_trial_is_a_cell_of_the_validation_split_under_a_seed_of_its_own():
    plad = replace(cell("plad", tune=4), row="plad+own")
    space = search.space(plad)
    tried = search.trial(plad, space, {**search.defaults(space), "lr": 2e-3}, plad.metrics[0])
    assert tried.row == "plad[lr=0.002]+own"
    assert tried.id != plad.id
    assert tried.seed == search.SEED == tried.checkpoint.spec["seed"]
    assert tried.responses.spec["split"] == "validation"
    assert tried.checkpoint.spec["lr"] == 2e-3
    assert tried.protocol.tune == 0


def test_the_first_of_equally_good_trials_is_the_best():
    trials = tuple(Trial({"lr": 1.0}, score) for score in (3.0, None, 1.0, 1.0, 2.0))
    assert Tuning("m", "lower", (), trials).best == 2
    assert Tuning("m", "higher", (), trials).best == 0
    assert Tuning("m", "higher", (), trials[1:2]).best is None


def test_without_optuna_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr("plad_bench.plan.backends.find_spec", lambda name: None)
    with pytest.raises(MissingError, match="optuna"):
        tuning.Tuner([cell("kd", tune=2)], tmp_path, "", tiny.registry(), again=False)


# ---------------------------------------------------------------------------------------------------------- whole runs


def test_every_method_gets_as_many_trials_and_only_winners_meet_the_test_split(program, tmp_path):
    result = program(*RUN, "--tune", "3", "--seeds", "2")
    board = tmp_path / "leaderboards" / "b"
    trials, rows = cells(board, "tuning"), cells(board)
    assert {(r.seed, r.protocol["split"]) for r in trials.values()} == {(search.SEED, "validation")}
    assert {r.method.name for r in trials.values()} == {"sft", "kd"}
    assert len(trials) == 6
    assert {r.protocol["split"] for r in rows.values()} == {"test"}
    assert {r.protocol["tune"] for r in rows.values()} == {3}
    for name in ("sft", "kd"):
        records = [rows[f"demo/tiny+small/{name}/seed-{seed}"] for seed in (0, 1)]
        told = records[0].tuning
        assert told == records[1].tuning
        assert (told.metric, told.split, told.seed, len(told.trials)) == ("slot-errors", "validation", search.SEED, 3)
        assert told.trials[0].values["lr"] == 1e-3
        scores = [trial.score for trial in told.trials if trial.score is not None]
        best = told.trials[told.best]
        assert best.score == min(scores)
        assert {r.method.lr for r in records} == {best.values["lr"]}
        assert best.score == pytest.approx(min(abs(math.log10(best.values["lr"] / BEST)), 4) / 4)
        assert records[0].metrics["slot-errors"].value == pytest.approx(best.score)
        assert not records[0].method.lr_shared
    assert rows["demo/tiny+small/teacher/seed-0"].tuning is None
    assert "--tune 3" in records[0].provenance["command"]
    assert "Trial 3 of 2 methods" in result.stderr
    assert "Chosen for kd: trial " in result.stderr


def test_the_budget_holds_over_trials_and_the_next_run_goes_on_with_a_new_one(program, tmp_path, monkeypatch):
    def paid(context):
        if "metric" in context.spec:  # reserved, and a third of it spent
            context.budget.reserve(3.0)
            context.budget.settle(3.0, 1.0)
        operation(context)

    monkeypatch.setattr(worker, "import_module", lambda name: SimpleNamespace(run=paid))
    board = tmp_path / "leaderboards" / "b"
    result = program(*RUN, "--tune", "3", "--max-cost", "5", code=6)
    assert program.made.count("score") == 4  # the fourth could still cost 3 of the remaining 2
    assert len(cells(board, "tuning")) == 3
    assert cells(board) == {}
    assert "spent: 3" in result.stderr
    assert "1 cell not run: the budget is spent" in result.stderr
    program(*RUN, "--tune", "3", "--max-cost", "100")
    assert len(cells(board, "tuning")) == 6
    assert program.made.count("score") == 3 + 5  # the other trials, two rows and three baselines
    assert {r.status for r in cells(board).values()} == {"done"}


@pytest.mark.slow
def test_the_same_command_goes_on_and_a_finished_one_makes_nothing(program, tmp_path, monkeypatch):
    board = tmp_path / "leaderboards" / "b"
    program(*RUN, "--tune", "3")
    whole = {name: record.essence() for name, record in cells(board).items()}
    pages = (board / "README.md").read_bytes()
    program(*RUN, "--tune", "3")
    assert program.made == []
    assert (board / "README.md").read_bytes() == pages
    for path in (board / "tuning").glob("cells/**/seed-1000*"):  # as if it had been killed in the third round
        record = path.parent.name
        if record.startswith("kd") and record != "kd":
            path.unlink()
    for path in (board / "cells").glob("**/kd/*"):
        path.unlink()
    program(*RUN, "--tune", "3")
    assert program.made == []  # the store has it all
    assert {name: record.essence() for name, record in cells(board).items()} == whole
    again = tmp_path / "again"
    again.mkdir()
    monkeypatch.chdir(again)
    monkeypatch.setenv("PLAD_BENCH_STORE", str(again / "store"))
    program(*RUN, "--tune", "3")
    assert {name: record.essence() for name, record in cells(again / "leaderboards" / "b").items()} == whole


@pytest.mark.slow
def test_a_trial_that_fails_is_recorded_and_never_chosen(program, tmp_path, monkeypatch):
    monkeypatch.setattr(search, "AROUND", 1000.0)
    program(*RUN, "--tune", "6")
    trials = cells(tmp_path / "leaderboards" / "b")["demo/tiny+small/sft/seed-0"].tuning.trials
    failed = [trial for trial in trials if trial.score is None]
    assert failed
    assert all("the loss is nan" in trial.reason and trial.values["lr"] > HIGHEST for trial in failed)
    program(*RUN, "--tune", "6")
    assert program.made == []
    program(*RUN, "--tune", "6", "--rerun", "failed")
    assert "distill" in program.made


def test_a_method_whose_trials_all_fail_is_not_evaluated(program, tmp_path):
    program(*RUN, "--tune", "2", "--lr", "1", "--methods", "seqkd,kd", code=1)
    rows = cells(tmp_path / "leaderboards" / "b")
    kd = rows["demo/tiny+small/kd/seed-0"]
    assert kd.status == "skipped"
    assert "all of its 2 trials failed: " in kd.reason
    assert "the loss is nan" in kd.reason
    assert rows["demo/tiny+small/seqkd/seed-0"].status == "done"


def test_a_tuned_board_takes_no_untuned_rows_and_an_untuned_one_no_tuned_rows(program, tmp_path):
    program(*RUN)
    with pytest.raises(UsageError, match="the board fixes tune = 0"):
        program(*RUN, "--tune", "2")
    other = [word if word != "b" else "tuned" for word in RUN]
    program(*other, "--tune", "2")
    with pytest.raises(UsageError, match="the board fixes tune = 2"):
        program(*other, "--tune", "3")
    program(*other)  # the board's two trials
    boards = tmp_path / "leaderboards"
    for path in (boards / "b" / "cells").glob("**/kd/seed-0*"):
        path.replace(boards / "tuned" / path.relative_to(boards / "b"))
    board = load(boards / "tuned")
    assert [problem.reason for problem in board.problems] == ["was made under another protocol: tune is 0, not 2"]


def test_the_validation_split_cannot_be_the_test_split(program):
    with pytest.raises(UsageError, match="Leave --split out"):
        program(*RUN, "--tune", "2", "--split", "validation")


def test_a_plan_says_what_would_be_searched_and_does_nothing(program, tmp_path):
    result = program("plan", *RUN[1:], "--tune", "5")
    assert "Tuning of kd: 0 of 5 trials done; searched: lr 0.0001 to 0.01 (log), ce_weight 0 to 0.9" in result.stderr
    assert "10 trials come first" in result.stderr
    assert "  trials of kd: train (5): " in result.stdout
    assert "  kd: train (1): " in result.stdout
    assert "  SFT initialisation: train (2): " in result.stdout
    assert "  generate validation responses (10): " in result.stdout
    assert program.made == []
    assert not (tmp_path / "leaderboards").exists()


# --------------------------------------------------------------------------------------------------------- the page


def tuned_board(directory, means, trials=6):
    """A board of tuned methods; `means` has the error of each where it counts, in percent."""
    rng = np.random.default_rng(2)
    hard = rng.normal(0, 0.03, 60)
    for index, (name, mean) in enumerate(means.items()):
        scores = [(mean + 30 * abs(math.sin(7 * index + 3 * k)) / (k + 1)) / 100 for k in range(trials)]
        told = {
            "metric": "errors",
            "split": "validation",
            "seed": search.SEED,
            "space": {"lr": {"low": 1e-4, "high": 1e-2, "log": True}},
            "trials": [
                {
                    "values": {"lr": 0.001 * (k + 1)},
                    "score": None if k == 2 else score,
                    "cost": {"train_device_seconds": 30.0},
                }
                for k, score in enumerate(scores)
            ],
        }
        told["best"] = min((s, k) for k, s in enumerate(scores) if k != 2)[1]
        for seed in range(3):
            values = np.clip(mean / 100 + hard + rng.normal(0, 0.002) + rng.normal(0, 0.01, 60), 0, 1)
            data, file = synthetic.record(name, seed, columns={"errors": (values, "lower", "%")}, tuning=told)
            data["protocol"] = {**data["protocol"], "tune": trials}
            data["method"] |= {"lr": 0.001 * (told["best"] + 1), "lr_shared": False}
            synthetic.put(directory, data, file)
    (directory / "board.toml").write_text("seeds_asked = 3\n")
    return directory


def test_the_page_shows_what_was_tried_and_chosen(tmp_path):
    files = render_board(tuned_board(tmp_path / "b", {"kd": 10.0, "plad": 12.0, "sft": 30.0}))
    page = files[tmp_path / "b" / "README.md"].decode()
    assert "every method was tuned with 6 trials" in page
    assert "every method tuned with 6 trials" in page
    assert "of their own" not in page
    assert "every method with" not in page
    row = next(line for line in page.splitlines() if "`kd`" in line and "| 6, 1 failed |" in line)
    assert "| lr 0.001 (the default) | 10.0 | 10.0 | " in row
    assert row.endswith("| 180 s |") or row.endswith("| 3 min |")
    plot = files[tmp_path / "b" / "plots" / "tuning.svg"].decode()
    assert plot.count("<polyline") == 3
    assert "errors: best trial so far" in plot
    assert files[tmp_path / "b" / "index.html"].decode().count("errors: best trial so far</text>") == 2  # two widths


def tuning_plot(directory, means):
    return render_board(tuned_board(directory, means))[directory / "plots" / "tuning.svg"].decode()


def test_names_beside_the_plot_never_overlap_and_those_without_room_are_counted(tmp_path):
    plot = tuning_plot(tmp_path / "b", {f"method-{k}": 10.0 + k / 50 for k in range(26)})
    heights = sorted(float(y) for y in re.findall(r'<text x="[\d.]+" y="([\d.]+)">method', plot))
    assert 1 < len(heights) <= 22
    assert min(b - a for a, b in itertools.pairwise(heights)) > 14
    assert f"{26 - len(heights)} lines without room for their names" in plot
    assert plot.count("<polyline") == 26


def test_lines_stay_within_the_plot(tmp_path):
    plot = tuning_plot(tmp_path / "b", {"kd": 10.0, "plad": 12.0})  # first trials are worse by up to 30 points
    heights = [float(y) for path in re.findall(r'points="([^"]+)"', plot) for y in re.findall(r",([\d.-]+)", path)]
    assert min(heights) == 60.0
    assert max(heights) <= 400.0


def test_a_record_whose_choice_was_no_trial_is_left_out(tmp_path):
    tuned_board(tmp_path / "b", {"kd": 10.0})
    path = next((tmp_path / "b" / "cells").glob("**/kd.s1.json"))
    data = json.loads(path.read_text())
    data["tuning"]["best"] = 2
    path.write_text(json.dumps(data))
    (problem,) = load(tmp_path / "b").problems
    assert "best is not the number of a trial that has a score" in problem.reason


def test_tuned_and_untuned_boards_are_not_taken_together(tmp_path):
    tuned = tuned_board(tmp_path / "tuned", {"kd": 10.0, "sft": 20.0})
    plain = tuned_board(tmp_path / "plain", {"kd": 10.0, "sft": 20.0})
    for path in (plain / "cells").glob("**/*.json"):
        data = json.loads(path.read_text())
        other = {"task": {**data["task"], "name": "other", "selector": "other"}, "tuning": None}
        path.write_text(json.dumps(data | other))
    assert across_tasks.panels([load(tuned), load(plain)]) == []
    for path in (tuned / "cells").glob("**/*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"tuning": None}))
    assert len(across_tasks.panels([load(tuned), load(plain)])) == 1


# --------------------------------------------------------------------------------------------------- from end to end


@pytest.mark.slow
def test_real_trainings_are_tuned_from_end_to_end(tmp_path, monkeypatch):
    """Two methods on the demo, a few steps each: real models, trials, and rows of the settings that won."""
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))
    asked = {"methods": "sft,seqkd", "tune": 3, "steps": 4, "sft_steps": 8, "max_new_tokens": 8, "batch": 8}
    given = {**asked, "metrics": "rouge-l", "gpus": "none", "board": "b", "boards_dir": tmp_path}
    (group,) = plad_bench.run(**given).groups
    assert sorted(row.label for row in group.rows) == ["seqkd", "sft"]
    for row in group.rows:
        assert len(row.tuning.trials) == 3
        assert all(trial.score is not None and trial.cost["train_device_seconds"] > 0 for trial in row.tuning.trials)
        chosen = row.tuning.trials[row.tuning.best]
        assert row.lr == chosen.values["lr"]
        trial = next(
            r for r in cells(tmp_path / "b", "tuning").values() if r.method.name == row.method and r.method.lr == row.lr
        )
        assert trial.metrics["rouge-l"].value == chosen.score
        assert trial.metrics["rouge-l"].n != group.examples  # the validation split has other prompts
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "artifacts").glob("*/*")}
    assert plad_bench.run(**given).groups == (group,)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "store" / "artifacts").glob("*/*")} == before
