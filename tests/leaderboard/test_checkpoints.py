"""Models that were trained elsewhere, as unranked rows of a board."""

from __future__ import annotations

import json

import pytest
import tiny
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.leaderboard.loading import load
from plad_bench.render import markdown


def command(tmp_path, name, *arguments):
    place = ("--store", str(tmp_path / "s"), "--boards-dir", str(tmp_path / "b"), "--gpus", "none")
    return CliRunner().invoke(cli, [name, *place, *arguments], standalone_mode=False)


def model(directory, seed=0):
    tiny.llama(seed=seed).save_pretrained(directory)
    tiny.tokenizer().save_pretrained(directory)
    return directory


@pytest.mark.slow
def test_a_checkpoint_is_a_row_without_a_rank(tmp_path):
    other = model(tmp_path / "elsewhere")
    rows = [json.dumps({"prompt": tiny.sentence(i, 9), "response": tiny.sentence(i, 3)}) for i in range(90)]
    (tmp_path / "rows.jsonl").write_text("\n".join(rows))
    small = ("--task", f"jsonl[path={tmp_path / 'rows.jsonl'}]", "--student", "tiny", "--teacher", "small[steps=2]")
    small += ("--methods", "sft,seqkd", "--steps", "2", "--sft-steps", "2", "--max-new-tokens", "4")
    named = ("--checkpoint", f"trl={other}", "--board", "mine", "--seeds", "2", "--metrics", "rouge-l,nll,fidelity")
    ran = command(tmp_path, "run", *small, *named)
    assert ran.exception is None, ran.output
    board = load(tmp_path / "b" / "mine")
    (group,) = board.groups
    (row,) = [row for row in group.baselines if row.method == "checkpoint"]
    assert (row.label, row.rank, len(row.cells)) == ("trl", None, 1)
    assert {row.label for row in group.rows} == {"sft", "seqkd"}
    assert "Trained elsewhere: trl. Data, budget and tuning of that training are unknown here" in markdown.render(board)
    (record,) = (tmp_path / "b" / "mine").glob("cells/**/trl/seed-0.json")
    said = json.loads(record.read_text())
    assert said["method"]["params"]["path"].startswith("sha256:")
    assert "different tokenizers" in said["absent"]["fidelity"]
    assert str(tmp_path) not in record.read_text()
    again = command(tmp_path, "plan", *small, *named, "--json")
    assert {cell["state"] for cell in json.loads(again.stdout)["cells"]} == {"cached"}


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("elsewhere", UsageError, "is not NAME=DIR"),
        ("a b=elsewhere", UsageError, "is not NAME=DIR"),
        ("teacher=elsewhere", UsageError, "teacher is the name of another row"),
        ("kd=elsewhere", UsageError, "kd is the name of another row"),
        ("mine=nowhere", MissingError, "no directory nowhere"),
    ],
)
def test_what_is_no_checkpoint_is_refused(tmp_path, given, error, message):
    found = command(tmp_path, "plan", "--checkpoint", given).exception
    assert isinstance(found, error)
    assert message in str(found)


def test_a_directory_without_a_model_is_missing(tmp_path):
    (tmp_path / "empty").mkdir()
    shown = command(tmp_path, "plan", "--methods", "sft", "--checkpoint", f"mine={tmp_path / 'empty'}")
    assert shown.return_value == 3
    assert "has no config.json" in shown.stderr
