"""Budgets of training: where it stops, what schedules follow, what resumes, and which cells cannot be held to one."""

from __future__ import annotations

import itertools

import pytest
import tiny
from killing import killed_at
from plain_training import same_weights

from plad_bench.contract import training_budget
from plad_bench.contract.errors import SkippedError, UsageError
from plad_bench.contract.protocol import Protocol, checked
from plad_bench.contract.training_budget import extent
from plad_bench.execute import outlook
from plad_bench.learn import training
from plad_bench.learn.length import BudgetLength, Result
from plad_bench.plan import boardfile, compatibility, expenses, matrix, spec
from plad_bench.records import storage


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


def budget(kind, amount, **more):
    return {"budget": {"kind": kind, "amount": amount, **more}}


def train(world, method, limit, before=None, **more):
    """Train under a budget, with what the inputs used up before it."""
    job = {"method": tiny.named("method", method), "before": before or {}}
    usual = {"lr": 1e-3, "batch": 6, "seed": 0, "precision": "float32"}
    return world.run("train", {**usual, **limit}, job=job, **more)


# ------------------------------------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("tokens=5M", "tokens=5M"),
        ("tokens=5000000", "tokens=5M"),
        ("tokens=1234567", "tokens=1234.567k"),
        ("device-seconds=600", "device-seconds=600"),
        ("money=0.05", "money=0.05"),
        ("teacher-tokens=2.5k", "teacher-tokens=2.5k"),
    ],
)
def test_an_amount_has_one_spelling(text, kept):
    assert Protocol(budget=text).budget == kept
    assert checked({"budget": text}) == {"budget": kept}
    assert training_budget.parse(kept) == training_budget.parse(text)


def test_a_budget_of_steps_is_the_setting_steps():
    assert Protocol(budget="steps=40") == Protocol(steps=40)
    assert checked({"budget": "steps=1k"}) == {"budget": "", "steps": 1000}


@pytest.mark.parametrize(
    "text", ["5M", "tokens", "tokens=", "tokens=0", "tokens=-1", "hours=3", "steps=1.5", "tokens=5T"]
)
def test_anything_else_is_refused(text):
    with pytest.raises(UsageError, match="budget is"):
        Protocol(budget=text)


def test_steps_and_a_budget_that_replaces_them_exclude_each_other():
    for given in ({"budget": "tokens=5M", "steps": 40}, {"budget": "steps=30", "steps": 40}):
        with pytest.raises(UsageError, match="both say when training ends"):
            training_budget.check(given)
    training_budget.check({"budget": "teacher-tokens=5M", "steps": 40})
    training_budget.check({"budget": "steps=40", "steps": 40})


def test_pages_say_how_long_methods_train():
    assert extent({"steps": 300}) == "300 steps"
    assert extent({"steps": 300, "budget": "tokens=5M"}) == "a budget of 5M trained tokens"
    assert extent({"steps": 300, "budget": "teacher-tokens=2M"}) == "a budget of 2M teacher tokens, at most 300 steps"


def stage_of(method="seqkd", prices=None, **protocol):
    run = spec.build(
        tiny.registry(), task="demo", methods=method, overrides={"demo": protocol}, prices=prices, metrics="slot-errors"
    )
    return next(cell for cell in matrix.cells(run, tiny.registry()) if cell.method)


def test_a_budget_is_in_the_key_of_the_training_and_steps_only_where_they_count():
    plain = stage_of().checkpoint
    assert "budget" not in plain.spec
    assert plain.key == stage_of(budget="steps=300").checkpoint.key
    tokens, more = (stage_of(budget="tokens=5M", steps=n).checkpoint for n in (300, 40))
    assert tokens.key == more.key != plain.key
    scored, fewer = (stage_of(budget="teacher-tokens=5M", steps=n).checkpoint for n in (300, 40))
    assert scored.key != fewer.key
    assert stage_of(budget="tokens=5M").plan.sft_init.key == stage_of().plan.sft_init.key


def test_money_needs_a_price_of_device_time_and_its_key_has_the_prices():
    for prices in (None, {"device_hour": 0.0}):
        with pytest.raises(UsageError, match="device_hour"):
            stage_of(budget="money=5", prices=prices)
    keys = {stage_of(budget="money=5", prices={"device_hour": price}).checkpoint.key for price in (1.0, 2.0)}
    assert len(keys) == 2


@pytest.mark.parametrize("kind", ["money=1", "teacher-tokens=1M"])
def test_a_method_whose_teacher_text_cannot_be_counted_is_skipped(kind, tmp_path):
    (tmp_path / "r.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    run = spec.build(
        tiny.registry(),
        task="demo",
        methods="sft,seqkd",
        teacher=f"recorded[path={tmp_path / 'r.jsonl'}]",
        overrides={"demo": {"budget": kind}},
        prices={"device_hour": 1.0},
    )
    reasons = {cell.row: cell.skip for cell in matrix.cells(run, tiny.registry()) if cell.method}
    assert reasons["sft"] == ""
    assert "cannot be counted" in reasons["seqkd"]


# ------------------------------------------------------------------------------------------------------------ training


def test_training_stops_at_the_first_step_that_uses_up_the_tokens(world):
    made = train(world, "seqkd", budget("tokens", 200.0))
    steps, tokens = made.manifest["cost"]["steps"], made.manifest["cost"]["tokens_trained"]
    assert tokens >= 200
    short = world.train("seqkd", steps=int(steps) - 1).manifest["cost"]["tokens_trained"]
    assert short < 200
    assert tokens == world.train("seqkd", steps=int(steps)).manifest["cost"]["tokens_trained"], "the same data"


def test_methods_stop_at_the_same_budget_whatever_their_steps_train_on(world):
    costs = {name: train(world, name, budget("tokens", 400.0)).manifest["cost"] for name in ("seqkd", "plad")}
    assert costs["plad"]["steps"] < costs["seqkd"]["steps"], "both sides of a pair are trained on"
    largest = {name: cost["tokens_trained"] / cost["steps"] * 2 for name, cost in costs.items()}
    assert all(400 <= cost["tokens_trained"] < 400 + largest[name] for name, cost in costs.items())


def test_the_learning_rate_follows_the_budget_to_its_end():
    length = BudgetLength(1000.0, lambda done: float(done.tokens))
    done = Result()
    rates = []
    while length.share(done) < 1:
        rates.append(length.rate(done, 2.0))
        done.tokens += 10
        done.milliseconds.append(1.0)
    assert len(rates) == 100
    assert rates[0] == pytest.approx(0.2)
    assert rates[5] == max(rates) == pytest.approx(2.0)
    assert all(a < b for a, b in itertools.pairwise(rates[:6]))
    assert all(a > b for a, b in itertools.pairwise(rates[5:]))
    assert rates[-1] < 0.01


def test_what_inputs_used_up_is_no_progress_of_the_training():
    length = BudgetLength(100.0, lambda done: 60.0 + done.tokens, before=60.0)
    assert length.share(Result()) == 0
    assert length.share(Result(tokens=20)) == 0.5


def test_parts_end_ten_times_in_a_budget():
    length, done, ended, before = BudgetLength(95.0, lambda done: float(done.tokens)), Result(), 0, 0.0
    while before < 1:
        done.tokens += 3
        ended += length.ends_part(before, done)
        before = length.share(done)
    assert ended == 10


def test_a_schedule_follows_the_share_of_the_budget(world):
    made = tiny.curve(train(world, "taid", budget("tokens", 1000.0)))
    steps = tiny.curve(world.train("taid", steps=made[-1]["step"] + 1))
    name = next(name for name in made[-1] if name not in {"step", "lr", "loss", "gradient_norm"})
    assert made[-1][name] == pytest.approx(steps[-1][name], abs=0.05)


def test_device_seconds_are_those_of_the_steps(world, monkeypatch):
    clock = itertools.count(0, 2)  # seconds; asked before and after each step
    monkeypatch.setattr(training, "device_seconds", lambda device: next(clock))
    cost = train(world, "seqkd", budget("device-seconds", 9.0)).manifest["cost"]
    assert (cost["steps"], cost["update_device_seconds"]) == (5, 10)


def test_money_is_that_of_the_page(world, monkeypatch):
    clock = itertools.count(0, 36)
    monkeypatch.setattr(training, "device_seconds", lambda device: next(clock))
    prices = {"device_hour": 100.0, "teacher_million_tokens": 1e6}
    world.inputs["teach"].manifest.update(cost={"tokens_generated": 2})
    before = {"teacher_tokens": [("teach", "tokens_generated")]}
    cost = train(world, "seqkd", budget("money", 4.5, prices=prices), before).manifest["cost"]
    assert cost["steps"] == 3  # 2 for the text, 1 a step
    paid = boardfile.Prices(**prices).of({"teacher_tokens": 2, "train_device_seconds": 3 * 36})
    assert paid == pytest.approx(5)


def test_teacher_tokens_count_text_and_scores_and_steps_are_the_limit(world):
    live = train(world, "kd", {**budget("teacher-tokens", 150.0), "steps": 50}).manifest["cost"]
    assert live["steps"] < 50
    assert live["teacher_tokens_scored"] >= 150
    assert train(world, "sft", {**budget("teacher-tokens", 150.0), "steps": 4}).manifest["cost"]["steps"] == 4
    world.inputs["teach"].manifest.update(cost={"tokens_generated": 150})
    before = {"teacher_tokens": [("teach", "tokens_generated")]}
    with pytest.raises(SkippedError, match="use up the budget of 150 teacher tokens before training begins"):
        train(world, "seqkd", {**budget("teacher-tokens", 150.0), "steps": 4}, before)


@pytest.mark.parametrize("kind", ["tokens", "device-seconds"])
def test_a_resumed_training_goes_on_with_what_was_used(world, monkeypatch, kind):
    clock = itertools.count()
    monkeypatch.setattr(training, "device_seconds", lambda device: next(clock))
    limit = budget(kind, {"tokens": 2400.0, "device-seconds": 48.0}[kind])
    straight = train(world, "seqkd", limit)
    assert straight.manifest["cost"]["steps"] > 40
    with killed_at(40):
        train(world, "seqkd", limit, name="again")
    resumed = train(world, "seqkd", limit, name="again")
    same_weights(straight, resumed)
    assert tiny.curve(straight) == tiny.curve(resumed)
    for name in ("steps", "tokens_trained", "update_device_seconds"):
        assert straight.manifest["cost"][name] == resumed.manifest["cost"][name]


# ---------------------------------------------------------------------------------------------------- before and after


def test_the_cost_of_inputs_is_that_of_their_stages():
    cell = stage_of("plad", budget="teacher-tokens=100", steps=3)
    parts = cell.checkpoint.job["before"]
    teach = cell.plan.teach.key
    assert parts["teacher_tokens"] == [(teach, "tokens_generated")]
    facts = {teach: {"cost": {"tokens_generated": 120, "device_seconds": 2.0}}}
    assert expenses.total(parts, facts) == {"teacher_tokens": 120, "teacher_device_seconds": 2.0}
    assert "use up the budget of 100 teacher tokens" in compatibility.over_budget(cell, facts)
    assert compatibility.over_budget(cell, {}) == ""
    facts[teach]["cost"]["tokens_generated"] = 99
    assert compatibility.over_budget(cell, facts) == ""


def test_estimates_know_budgets():
    assert outlook._length({"steps": 7}, 10.0) == (7, 0.0)
    assert outlook._length(budget("tokens", 95.0), 10.0) == (10, 0.0)
    assert outlook._length(budget("device-seconds", 95.0), 10.0) == (1, 95.0)
    assert outlook._length(budget("money", 3.0, prices={"device_hour": 2.0}), 10.0) == (1, 5400.0)


@pytest.mark.slow
def test_a_run_is_held_to_its_budget_and_its_command_repeats_it(tmp_path, monkeypatch):
    from click.testing import CliRunner

    from plad_bench.cli.main import cli

    monkeypatch.chdir(tmp_path)
    words = ["run", "--methods", "sft,seqkd,kd", "--sft-steps", "10", "--batch", "8", "--max-new-tokens", "8"]
    words += [
        "--budget",
        "teacher-tokens=400",
        "--steps",
        "20",
        "--limit",
        "60",
        "--metrics",
        "slot-errors",
        "--gpus",
        "none",
    ]
    words += ["--store", "store", "--board", "b"]
    result = CliRunner().invoke(cli, words, standalone_mode=False)
    assert result.return_value == 0, result.output
    records = {p.parent.name: storage.read(p) for p in sorted((tmp_path / "leaderboards").glob("**/seed-0.json"))}
    assert records["seqkd"].status == "skipped"
    assert "use up the budget of 400 teacher tokens" in records["seqkd"].reason
    assert records["sft"].cost["steps"] == 20
    assert records["kd"].protocol["budget"] == "teacher-tokens=400"
    assert "--budget teacher-tokens=400" in records["kd"].provenance["command"]
    page = (tmp_path / "leaderboards" / "b" / "README.md").read_text()
    assert "a budget of 400 teacher tokens, at most 20 steps" in page
    again = CliRunner().invoke(cli, words, standalone_mode=False)
    assert "5 cached, 1 skipped" in again.stderr
