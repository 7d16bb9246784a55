"""What a run says of its progress: which stages run, for whom, and an estimate of the time left."""

import io
import time
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from plad_bench.cli import progress
from plad_bench.cli.forecast import Forecast, in_words
from plad_bench.cli.main import cli
from plad_bench.running import setup

OPERATIONS = {"distill": "train", "sft-init": "train", "teach": "generate"}


def stage(name):
    return SimpleNamespace(name=name, key=name, label=name, operation=OPERATIONS.get(name, name))


def took(seconds):
    return SimpleNamespace(manifest={"seconds": seconds, "provenance": {}})


def at_work(name, since, **told):
    return SimpleNamespace(stage=stage(name), began=time.monotonic() - since, progress=lambda: told)


@pytest.fixture
def forecast():
    found = Forecast()
    for name, seconds in {"data": 1.0, "distill": 40.0, "generate": 10.0}.items():
        found.finished(stage(name), took(seconds))
    return found


def test_there_is_no_estimate_before_a_long_operation_was_timed():
    found = Forecast()
    found.finished(stage("data"), took(1.0))
    assert found.left([], [stage("data"), stage("distill")]) is None
    assert found.left([at_work("distill", 5)], []) is None
    assert found.left([at_work("distill", 5, step=1, total=4)], [stage("sft-init")]) == pytest.approx(15 + 20, abs=1)
    found.finished(stage("sft-init"), took(30.0))
    assert found.left([], [stage("distill"), stage("score")]) == 30
    assert in_words(None) == ""


def test_a_stage_lasts_as_long_as_those_of_its_name_or_else_of_its_operation(forecast):
    forecast.finished(stage("distill"), took(60.0))
    assert forecast.left([], [stage("distill"), stage("generate")]) == pytest.approx(50 + 10)
    forecast.finished(stage("sft-init"), took(20.0))
    assert forecast.left([], [stage("distill"), stage("teach")]) == pytest.approx(50 + 10)


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
    for name in ("data", "sft-init", "generate"):
        lines.stage_finished(stage(name), took(6.0), None)
    lines.tick([at_work("distill", 5, step=1, total=4, loss=0.5)], [stage("generate")])
    told = capsys.readouterr().err
    assert "2 stages left, about 21 s left" in told
    assert "distill: 1/4 loss 0.5" in told


@pytest.fixture
def planned(tmp_path, monkeypatch):
    """The plan of a run of two methods."""
    kept = []
    prepare = setup.prepare
    monkeypatch.setattr("plad_bench.cli.plan.prepare", lambda *of: kept.append(prepare(*of)) or kept[-1])
    place = ["--boards-dir", str(tmp_path / "boards"), "--store", str(tmp_path / "store"), "--gpus", "none"]
    shown = CliRunner().invoke(
        cli, ["plan", "--methods", "plad[loss=margin],kd", "--seeds", "2", *place], standalone_mode=False
    )
    assert shown.return_value == 0, shown.stderr
    return kept[0], shown.stdout


def test_a_stage_is_told_by_whose_it_is_and_what_it_does(planned):
    labels = {stage.label for cell in planned[0].cells for stage in cell.stages}
    assert {
        "demo: prepare the data",
        "teacher: generate training responses",
        "teacher: generate test responses",
        "untouched student (seed 1): generate test responses",
        "SFT initialisation (seed 0): train",
        "SFT initialisation (seed 0): generate training responses",
        "plad[loss=margin] (seed 1): train",
        "kd (seed 0): generate test responses",
        "kd (seed 0): score rouge-l",
    } <= labels
    assert not any("seed" in label for label in labels if label.startswith("teacher"))


def test_a_run_says_of_what_it_has_how_much_to_do(planned):
    from plad_bench.cli.run import _extent

    assert _extent(planned[0]) == "Board quickstart: 9 cells to run (2 methods and 3 baselines, 2 seeds)."


def test_plan_says_what_the_stages_of_a_name_do(planned):
    (line,) = [line for line in planned[1].splitlines() if line.startswith("sample ")]
    assert line.split(maxsplit=3) == ["sample", "2", "0", "generate the student's off-policy samples"]


@pytest.mark.parametrize("width", [80, 120, 200])
def test_bars_fit_the_terminal_with_steps_and_time_left_in_sight(forecast, monkeypatch, width):
    from rich.console import Console

    def wide(**_):
        return Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)

    monkeypatch.setattr(progress, "Console", wide)
    bars = progress.Bars(7)
    bars.forecast = forecast
    told = {"step": 40, "total": 300, "loss": 15.9, "logprob_chosen": -10.6, "logprob_rejected": -27.4, "margin": 16.8}
    one = at_work("distill", 40, **told)
    one.stage.label = "plad[beta=1,logprob=mean,sft_weight=3] (seed 0): train"
    bars.stage_started(one)
    bars.tick([one], [stage("distill")])
    with bars.progress.console.capture() as captured:
        bars.progress.console.print(bars.progress.get_renderable())
    cells, training = captured.get().rstrip("\n").split("\n")
    assert "2 stages left" in cells
    assert "about 5 min left" in cells
    assert "40/300 loss 15.9" in training
    assert ("log q(y+) -10.6" in training) == (width > 80)
    assert ("(seed 0): train" in training) == (width == 200)
    assert max(len(cells), len(training)) <= width
