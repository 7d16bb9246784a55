"""Records, boards, options and metrics by the names that they had."""

from __future__ import annotations

import json
from importlib import import_module

import numpy as np
import pytest
import synthetic
from click.testing import CliRunner
from synthetic import record

import plad_bench
from plad_bench.cli.main import cli
from plad_bench.contract.errors import UsageError
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import Registry
from plad_bench.leaderboard.loading import load
from plad_bench.plan import boardfile
from plad_bench.records import migration, schema


def older(data):
    """A record of schema 1 that says what a record of today says."""
    text = json.dumps(data)
    for new, old in (("sft_steps", "warmup_steps"), ("sft_lr", "warmup_lr"), ("sft-init", "warmup")):
        text = text.replace(f'"{new}"', f'"{old}"')
    return {**json.loads(text), "schema": 1, "cell": data["cell"].replace("/sft-init/", "/warmup/")}


def test_a_record_of_schema_1_reads_as_one_of_schema_2():
    old = {
        "schema": 1,
        "cell": "demo/tiny+small/warmup/seed-0",
        "method": {"name": "warmup", "selector": "warmup", "params": {}},
        "protocol": {"warmup_steps": 600, "warmup_lr": 0.003, "signals": "top-8", "steps": 300},
        "metrics": {"perplexity": 1, "pair-accuracy": 2, "rouge-l": 3},
        "absent": {"perplexity": "why"},
        "cost": {"warmup_device_seconds": 2.0, "tokens_trained": 1.0},
        "timing": {"warmup": 1.0, "distill": 2.0},
        "counts": {"generate.unfinished": 1.0, "warmup.cut_sequences": 2.0, "data.rows": 3.0},
    }
    assert migration.renamed(old) == {
        "schema": 2,
        "cell": "demo/tiny+small/sft-init/seed-0",
        "method": {"name": "sft-init", "selector": "sft-init", "params": {}},
        "protocol": {"sft_steps": 600, "sft_lr": 0.003, "teacher_logprobs": "top-8", "steps": 300},
        "metrics": {"nll": 1, "preference-accuracy": 2, "rouge-l": 3},
        "absent": {"nll": "why"},
        "cost": {"sft_init_device_seconds": 2.0, "tokens_trained": 1.0},
        "timing": {"sft-init": 1.0, "distill": 2.0},
        "counts": {"generate.truncated": 1.0, "sft-init.truncated_sequences": 2.0, "data.rows": 3.0},
    }


@pytest.fixture
def boards(tmp_path):
    """The same board twice: as it is made today, and as an older version made it."""
    for name in ("new", "old"):
        synthetic.realistic(tmp_path / name, seeds=3, examples=40)
        (tmp_path / name / "board.toml").write_text("seeds_asked = 3\n")
    for path in sorted((tmp_path / "old" / "cells").glob("**/*.json")):
        data = older(json.loads(path.read_text()))
        path.write_text(json.dumps(data))
    return tmp_path


def said(board):
    """What a board shows of its rows."""
    (group,) = board.groups
    rows = [(row.label, row.rank, row.best, row.estimates, row.cost) for row in (*group.baselines, *group.rows)]
    return rows, group.protocol


def test_an_older_board_says_what_it_said_before_and_after_it_is_migrated(boards):
    new, old = (load(boards / name) for name in ("new", "old"))
    assert said(old) == said(new)
    assert not old.problems
    assert CliRunner().invoke(cli, ["leaderboard", "--boards-dir", str(boards)]).exit_code == 0
    again = load(boards / "old")
    assert said(again) == said(new)
    assert {r.schema_ for r in again.used} == {schema.SCHEMA}


def test_files_of_an_older_board_move_to_their_new_places_with_what_lies_beside_them(tmp_path):
    data, scores = record("warmup", 0, columns={"m": (np.array([1.0, 2.0]), "higher", "")})
    data = {
        **older(data),
        "cell": "demo/t/warmup/seed-0",
        "scores": {**data["scores"], "file": "seed-0.scores.parquet"},
    }
    place = tmp_path / "cells" / "demo" / "t" / "warmup"
    place.mkdir(parents=True)
    (place / "seed-0.json").write_text(json.dumps(data))
    (place / "seed-0.scores.parquet").write_bytes(scores)
    assert [r.cell for r in load(tmp_path).used] == ["demo/t/sft-init/seed-0"]
    assert migration.migrate(tmp_path) == 1
    assert sorted(p.name for p in (tmp_path / "cells" / "demo" / "t" / "sft-init").iterdir()) == [
        "seed-0.json",
        "seed-0.scores.parquet",
    ]
    assert not place.exists()
    assert migration.migrate(tmp_path) == 0
    assert not load(tmp_path).problems


def test_older_settings_of_a_board_and_in_python_work(tmp_path):
    (tmp_path / "board.toml").write_text('[protocol]\nwarmup_steps = 7\nsignals = "top-8"\n')
    assert boardfile.read(tmp_path / "board.toml").protocol == {"sft_steps": 7, "teacher_logprobs": "top-8"}
    with pytest.warns(FutureWarning, match="warmup_lr is now sft_lr"):
        assert Protocol(warmup_lr=0.5).sft_lr == 0.5


def test_a_board_made_with_continuous_batching_is_read_and_its_file_says_what_to_change(tmp_path):
    data, scores = record("sft", 0, columns={"m": (np.array([1.0, 2.0]), "higher", "")})
    data["protocol"]["backend"] = "continuous"
    place = tmp_path / "cells" / f"{data['cell']}.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(data))
    (place.parent / data["scores"]["file"]).write_bytes(scores)
    assert [r.protocol["backend"] for r in load(tmp_path).used] == ["continuous"]
    (tmp_path / "board.toml").write_text('[protocol]\nbackend = "continuous"\n')
    with pytest.raises(UsageError, match=r"backend is 'continuous'.*transformers or vllm"):
        boardfile.read(tmp_path / "board.toml")
    (tmp_path / "board.toml").write_text('[protocol]\nbackend = "transformers"\n')
    (problem,) = load(tmp_path).problems
    assert "backend is 'continuous', not 'transformers'" in problem.reason


def test_a_board_with_compiled_losses_is_read_and_its_file_says_what_to_delete(tmp_path):
    data, scores = record("sft", 0, columns={"m": (np.array([1.0, 2.0]), "higher", "")})
    data["protocol"]["compile"] = True
    place = tmp_path / "cells" / f"{data['cell']}.json"
    place.parent.mkdir(parents=True)
    place.write_text(json.dumps(data))
    (place.parent / data["scores"]["file"]).write_bytes(scores)
    assert [r.protocol["compile"] for r in load(tmp_path).used] == [True]
    (tmp_path / "board.toml").write_text("[protocol]\ncompile = true\n")
    with pytest.raises(UsageError, match=r"compile was removed.*Delete it"):
        boardfile.read(tmp_path / "board.toml")


@pytest.mark.parametrize("source", ["option", "variable", "config"])
def test_older_options_work_and_say_what_they_are_called_now(source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments = ["plan", "--json", "--store", "store"]
    match source:
        case "option":
            arguments += ["--warmup-steps", "7"]
        case "variable":
            monkeypatch.setenv("PLAD_BENCH_PLAN_WARMUP_STEPS", "7")
        case "config":
            (tmp_path / "c.toml").write_text("warmup-steps = 7\n")
            arguments += ["--config", "c.toml"]
    seen = {}
    import_module("plad_bench.cli.run")  # imported later, it would keep what replaces show_plan here
    monkeypatch.setattr("plad_bench.cli.plan.show_plan", lambda planned, options, gpus: seen.update(options) or 0)
    result = CliRunner().invoke(cli, arguments, standalone_mode=False)
    assert result.exception is None, result.output
    assert seen["sft_steps"] == 7
    if source != "config":
        assert "deprecated" in result.stderr
        assert "sft" in result.stderr.lower()


def test_help_shows_the_new_names_alone():
    text = CliRunner().invoke(cli, ["run", "--help"]).output
    assert "--sft-steps" in text
    assert "--teacher-logprobs" in text
    assert "warmup" not in text
    assert "--signals" not in text


def test_older_metrics_are_found_with_a_warning():
    with pytest.warns(FutureWarning, match="metric perplexity is now nll"):
        assert Registry.load().get("metric", "perplexity").name == "nll"


def test_records_of_plugins_may_be_imported_from_their_former_module():
    from plad_bench.contract import records

    with pytest.warns(DeprecationWarning, match="import Method from plad_bench"):
        assert records.Method is plad_bench.Method
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = records.nothing
