"""What a run will ask and buy is known before it: of teachers, of judges, of both together."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import BudgetError
from plad_bench.contract.money import Budget
from plad_bench.contract.registry import Registry
from plad_bench.execute import runs
from plad_bench.execute.engine import Engine, Options
from plad_bench.execute.estimate import estimates
from plad_bench.execute.store import RESPONSE_CACHE, Store
from plad_bench.plan import matrix, spec

PLUGIN = Path(__file__).parents[1] / "plugins" / "mini.py"
JUDGE = "win-judge[model=j,price_in=10,price_out=100,max_tokens=7]"


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path / "store")


def cells(metrics, methods="seqkd", teacher="openai[model=m,price_in=1,price_out=2]", **more):
    registry = Registry.load([PLUGIN])
    run = spec.build(registry, task="mini", methods=methods, teacher=teacher, metrics=metrics, **more)
    return [cell for cell in matrix.cells(run, registry) if not cell.skip]


def by_name(found):
    return {(e.asked.partition("[")[0], e.stage): e for e in found}


def test_judges_are_estimated_beside_the_teacher(store):
    found = by_name(estimates(cells(f"rouge-l,{JUDGE}"), store))
    assert set(found) == {("openai", "teach"), ("openai", "generate"), ("win-judge", "score")}
    tests = found["openai", "generate"].requests
    judge = found["win-judge", "score"]
    assert judge.requests == 4 * 2 * tests  # teacher, student, SFT initialisation and seqkd, in both orders
    assert judge.tokens_out == 7 * judge.requests
    least = judge.requests * 2 * 12  # two responses of up to 12 tokens
    assert least < judge.tokens_in < 10 * least
    assert judge.money == pytest.approx((10 * judge.tokens_in + 100 * judge.tokens_out) / 1e6)


def test_a_judge_of_two_metrics_is_asked_once(store):
    (one,) = estimates(cells(JUDGE, teacher="small"), store)
    (both,) = estimates(cells(f"{JUDGE},win-lc[scorer={JUDGE}]", teacher="small"), store)
    assert both == one


def test_what_only_the_run_will_know_is_not_guessed(store):
    wins = cells(f"win-teacher[scorer={JUDGE}]", teacher="small")
    (found,) = estimates(wins, store)
    assert found.asked.startswith("win-judge")
    assert (found.requests, found.money, found.priced) == (None, None, True)


def test_what_is_read_from_a_file_is_not_asked(store, tmp_path):
    (tmp_path / "said.jsonl").write_text('{"prompt": "a", "response": "b"}')
    found = cells("length", teacher=f"recorded[path={tmp_path / 'said.jsonl'}]")
    assert any(stage.operation == "ask" for cell in found for stage in cell.stages)
    assert estimates(found, store) == []


def test_what_is_answered_is_not_asked_again(store):
    teacher, *_ = context = cells(JUDGE, teacher="small")
    (before,) = estimates(context, store)
    (stage,) = teacher.scores.values()
    store.partial(stage.key).mkdir(parents=True)
    (store.partial(stage.key) / RESPONSE_CACHE).write_text('{"id": 1}\n\n{"id": 2}\n')
    (after,) = estimates(context, store)
    assert (after.requests, after.answered) == (before.requests, 2)
    assert before.tokens_out - after.tokens_out == 2 * 7


def test_what_a_judge_said_outlives_a_run_afresh_and_a_pruning(store, tmp_path):
    teacher, *_ = cells(JUDGE, teacher="small")
    (stage,) = teacher.scores.values()
    store.prepare()
    made = store.stage_directory(stage.key)
    (made / RESPONSE_CACHE).write_text("{}\n")
    store.commit(made, stage.document, stage.key, {"counts": {}, "cost": {}, "notes": {}, "seconds": 0})
    options = ["--store", str(store.root), "--boards-dir", str(tmp_path), "--days", "0"]
    pruned = CliRunner().invoke(cli, ["cache", "prune", *options, "--json"])
    assert json.loads(pruned.stdout)["removed"] == []
    runs.Run(store, tmp_path, [], teacher.registry)._discard([teacher])
    assert store.find(stage.key) is None
    assert (store.partial(stage.key) / RESPONSE_CACHE).read_text() == "{}\n"


def test_the_runs_that_are_forgotten_have_ended_and_what_they_spent_is_not(store, monkeypatch):
    store.prepare()
    state = runs.StateFile(store.runs / "20200101-000000-0000", store.root, "plad-bench run", {}, 1)
    engine = Engine(store, None, state.directory, threads=1, options=Options(max_cost=10))
    budget = Budget(engine.spent_file, limit=10)
    budget.open()
    with state:
        budget.reserve(9)
        for number in range(2 * runs.KEPT_RUNS):
            ended = runs.StateFile(store.runs / f"2021{number:04}", store.root, "plad-bench run", {}, 1)
            with ended:
                ended.finish(complete=True)
            Budget(store.spent / ended.directory.name).reserve(1)
            runs._forget_old(store.runs, ended.directory)
        assert state.directory.is_dir()
        assert len(list(store.runs.iterdir())) == runs.KEPT_RUNS + 1
        with pytest.raises(BudgetError):
            budget.reserve(9)
        state.write()
        assert [found["finished"] for found in runs.states(store)].count("") == 1
    assert [found["finished"] for found in runs.states(store)].count("killed") == 1
    runs._forget_old(store.runs, ended.directory)
    assert not state.directory.exists()
    assert len(list(store.spent.iterdir())) == 2 * runs.KEPT_RUNS + 1


@pytest.mark.parametrize("given", [[], ["--store", "elsewhere/store"], ["--store=elsewhere/store"]])
def test_status_tells_a_command_that_finds_the_store(store, tmp_path, given, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["run", "--task", "jsonl[path=/data/mine.jsonl]", *given]
    run = runs.Run(store, tmp_path / "boards" / "mine", arguments, Registry.load())
    runs.StateFile(store.runs / "20260101-000000-0000", run.board, run._command(), {"done": 0}, 1).write()
    (found,) = runs.states(store)
    told = given or ["--store", str(store.root)]
    assert shlex.split(found["command"]) == ["plad-bench", *arguments[:3], *told]
    assert found["directory"] == str(tmp_path)


# --------------------------------------------------------------------------------------------------------- the command


def plan(tmp_path, *options, command="plan"):
    place = ["--store", str(tmp_path / "store"), "--boards-dir", str(tmp_path / "boards"), "--gpus", "none"]
    return CliRunner().invoke(
        cli, ["-p", str(PLUGIN), command, "--task", "mini", *place, *options], standalone_mode=False
    )


def test_plan_tells_what_all_askers_cost_together(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0")
    monkeypatch.setattr("httpx2.get", lambda *_, **__: None)
    priced = ("--teacher", "openai[model=m,price_in=1,price_out=2]", "--methods", "seqkd")
    result = plan(tmp_path, *priced, "--metrics", JUDGE)
    assert result.return_value == 0, result.stderr
    rows = [line.split() for line in result.stdout.splitlines() if line.startswith(("openai", "win-judge"))]
    total = next(line for line in result.stdout.splitlines() if "total" in line).split()[-1]
    assert float(total) == pytest.approx(sum(float(row[-1]) for row in rows), rel=1e-3)
    assert len(rows) == 3


def test_a_judge_without_a_price_is_refused_under_a_limit(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-0")
    monkeypatch.setattr("httpx2.get", lambda *_, **__: None)
    for command in ("plan", "run"):
        for metrics in ("win-judge[model=j]", "win-teacher[scorer='win-judge[model=j]']"):
            options = ("--metrics", metrics, "--methods", "none", "--max-cost", "1")
            result = plan(tmp_path, *options, command=command)
            said = str(result.exception) if command == "run" else result.stderr
            assert "--max-cost needs the price of every endpoint; win-judge[model=j] has none" in said
            assert result.return_value == 2 if command == "plan" else result.exception.exit_code == 2
    assert plan(tmp_path, "--metrics", "win-judge[model=j]", "--methods", "none").return_value == 0


def test_plan_ends_as_run_would_where_something_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    options = (
        "--student",
        f"hf[path={tmp_path / 'empty'}]",
        "--teacher",
        "small",
        "--methods",
        "none",
        "--task",
        "demo",
    )
    result = plan(tmp_path, *options)
    assert result.return_value == 3
    assert "run would stop: hf[path=empty" in result.stderr
    assert plan(tmp_path, *options, "--json").return_value == 3
    assert plan(tmp_path, *options, "--dry-run", command="run").return_value == 3


def test_stages_are_listed_in_the_order_of_the_data_flow(tmp_path):
    listed = json.loads(plan(tmp_path, "--methods", "sft,dpo,kd,seqkd", "--json").stdout)["stages"]
    place = {name: i for i, name in enumerate(dict.fromkeys(row["stage"] for row in listed))}
    made = cells("rouge-l", "sft,dpo,kd,seqkd", teacher="small")
    read = {(s.name, parent.name) for cell in made for s in cell.stages for parent in s.inputs.values()}
    assert place.keys() == {name for both in read for name in both}
    assert all(place[earlier] < place[later] for later, earlier in read)


def test_a_plan_breaks_no_name(tmp_path):
    shown = plan(tmp_path, "--methods", "none", "--student", "scratch[layers=1,width=16,heads=2,vocabulary=300]").stdout
    assert any(line.split()[0].endswith("/student/seed-0") and "mini/" in line for line in shown.splitlines() if line)
    assert "…" not in shown
