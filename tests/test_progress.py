"""What a run says of how far it is: with units, and with a guess of the time that is left."""

import time
from types import SimpleNamespace

import pytest

from plad_bench.cli import progress
from plad_bench.cli.forecast import Forecast, in_words


def stage(name):
    return SimpleNamespace(name=name, key=name, label=name)


def took(seconds):
    return SimpleNamespace(manifest={"seconds": seconds})


def at_work(name, since, **told):
    return SimpleNamespace(stage=stage(name), began=time.monotonic() - since, progress=lambda: told)


@pytest.fixture
def forecast():
    found = Forecast()
    for name, seconds in {"data": 1.0, "distill": 40.0, "generate": 10.0}.items():
        found.finished(stage(name), took(seconds))
    return found


def test_nothing_is_foretold_of_the_first_stages():
    assert Forecast().left([], [stage("distill")]) is None
    assert in_words(None) == ""


def test_a_stage_lasts_as_long_as_those_of_its_name(forecast):
    forecast.finished(stage("distill"), took(60.0))
    assert forecast.left([], [stage("distill"), stage("generate")]) == pytest.approx(50 + 10)
    assert forecast.left([], [stage("reference")]) == pytest.approx((1 + 40 + 60 + 10) / 4)


def test_what_runs_is_judged_by_its_own_steps_and_slots_share_the_work(forecast):
    waiting = [stage("generate")]
    assert forecast.left([at_work("distill", 30, step=10, total=40)], waiting) == pytest.approx(90 + 10, abs=1)
    two = [at_work("distill", 30), at_work("distill", 100)]
    assert forecast.left(two, waiting) == pytest.approx((10 + 0 + 10) / 2, abs=1)


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.2, "about 1 s left"), (80, "about 80 s left"), (200, "about 3 min left"), (9000, "about 2 h left")],
)
def test_a_guess_is_in_round_units(seconds, words):
    assert in_words(seconds) == words


def test_lines_say_now_and_then_how_much_is_left(monkeypatch, capsys):
    monkeypatch.setattr(progress, "_PLAIN_EVERY_S", 0)
    lines = progress.Lines(2)
    for name in ("data", "init", "sft-init"):
        lines.stage_finished(stage(name), took(6.0), None)
    lines.tick([at_work("distill", 5, step=1, total=4, loss=0.5)], [stage("generate")])
    told = capsys.readouterr().err
    assert "2 stages left, about 21 s left" in told
    assert "distill 1/4 loss 0.5" in told
