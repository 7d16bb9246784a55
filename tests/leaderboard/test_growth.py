"""Boards that grow: records of several machines, and records that are broken, foreign or edited."""

import json
import os
import shutil

import numpy as np
import pytest
from click.testing import CliRunner
from synthetic import PROTOCOL, TRUTHS, component, digest, put, realistic, record

from plad_bench.cli.main import cli
from plad_bench.leaderboard.loading import load
from plad_bench.render.write import render_board

METHODS = {name: TRUTHS[name] for name in ("plad", "kd", "sft")}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return realistic(tmp_path_factory.mktemp("boards") / "b", seeds=4, examples=40, methods=METHODS)


@pytest.fixture
def board(made, tmp_path):
    return shutil.copytree(made, tmp_path / "b")


def run(board, *arguments):
    arguments = [*arguments, "--boards-dir", str(board.parent)]
    return CliRunner().invoke(cli, arguments, standalone_mode=False)


def place(board, name):
    return board / "cells" / "demo.tiny" / f"{name}.json"


def change(board, name, **values):
    path = place(board, name)
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}), encoding="utf-8")


def seeds_of(board, method="kd"):
    (group,) = load(board).groups
    done = {row.label: row.seeds for row in group.rows}
    done |= {u.label: u.seeds for u in group.unranked if u.status == "incomplete"}
    return done.get(method)


# ---------------------------------------------------------------------------------------------------------- merging


def test_the_records_of_two_machines_copied_together_are_the_board_of_one(board, tmp_path):
    whole = render_board(board)[board / "README.md"]
    for machine in (0, 1):
        part = shutil.copytree(board, tmp_path / f"machine-{machine}")
        for path in (part / "cells").rglob("*.s[0-9].*"):
            if int(path.name.split(".s")[1][0]) % 2 != machine:
                path.unlink()
    shutil.rmtree(board / "cells")
    for machine in (0, 1):
        shutil.copytree(tmp_path / f"machine-{machine}" / "cells", board / "cells", dirs_exist_ok=True)
    assert render_board(board)[board / "README.md"] == whole
    assert not load(board).problems


def test_another_task_is_no_conflict_but_a_table_of_its_own(board):
    task = {**component("other"), "licence": "x", "redistributable": False}
    put(board, *record("kd", 0, folder="other.tiny", task=task, columns={"m": (np.arange(9.0), "higher", "")}))
    loaded = load(board)
    assert not loaded.problems
    assert [group.task for group in loaded.groups] == ["demo", "other"]


# --------------------------------------------------------------------------------------- what is left out, and why


def unreadable(board):
    place(board, "kd.s1").write_text("<<<<<<< HEAD\n{}\n=======\n{}\n>>>>>>> other\n")


def newer(board):
    change(board, "kd.s1", schema=99)


def foreign(board):
    change(board, "kd.s1", protocol={**PROTOCOL, "steps": 301})


def other_examples(board):
    data, scores = record("kd", 1, selector="kd", params={"typed": ""}, columns={"m": (np.arange(39.0), "higher", "")})
    put(board, data, scores)


def edited_value(board):
    data = json.loads(place(board, "kd.s1").read_text())
    data["metrics"]["rouge-l"]["value"] += 0.01
    change(board, "kd.s1", metrics=data["metrics"])


def edited_error(board):
    data = json.loads(place(board, "kd.s1").read_text())
    data["metrics"]["rouge-l"]["stderr"] /= 2
    change(board, "kd.s1", metrics=data["metrics"])


def edited_scores(board):
    path = place(board, "kd.s1").with_name("kd.s1.scores.parquet")
    path.write_bytes(place(board, "kd.s2").with_name("kd.s2.scores.parquet").read_bytes())


def edited_hash(board):
    data = json.loads(place(board, "kd.s1").read_text())
    change(board, "kd.s1", scores={**data["scores"], "sha256": digest(b"another")})


def without_scores(board):
    place(board, "kd.s1").with_name("kd.s1.scores.parquet").unlink()


def copied(board):
    """Seed 2 under the name of seed 1, and made to fit."""
    data = json.loads(place(board, "kd.s2").read_text())
    put(board, {**data, "cell": "demo.tiny/kd.s1", "seed": 1})


def another_seed(board):
    """The cell says that its seed is 1, the record that it is 7."""
    data, scores = record("kd", 7, columns={"m": (np.arange(9.0), "higher", "")})
    place(board, "kd.s1").unlink()
    put(board, {**data, "cell": "demo.tiny/kd/seed-1"}, scores)


def misplaced(board):
    place(board, "kd.s1").rename(place(board, "kd.s1").with_name("kd.s1 (copy).json"))


def conflicting(board):
    data = json.loads(place(board, "kd.s1").read_text())
    put(board, {**data, "cell": "demo.tiny/again.s1", "key": digest(b"again")})


BROKEN = {
    unreadable: ("kd.s1", "not a record"),
    newer: ("kd.s1", "schema 99"),
    foreign: ("kd.s1", "another protocol: steps is 301, not 300"),
    other_examples: ("kd.s1", "on other examples: it shares 39 of the 40"),
    edited_value: ("kd.s1", "was edited: rouge-l"),
    edited_error: ("kd.s1", "was edited: the error of rouge-l"),
    edited_scores: ("kd.s1", "hash differs"),
    edited_hash: ("kd.s1", "hash differs"),
    without_scores: ("kd.s1", "are missing"),
    copied: ("kd.s1", "conflicts with demo.tiny/kd.s2.json: the same key and scores"),
    another_seed: ("kd/seed-1", "was edited: its seed is 7"),
    misplaced: ("kd.s1 (copy)", "belongs to cell demo.tiny/kd.s1"),
    conflicting: ("kd.s1", "conflicts with demo.tiny/again.s1.json: the same method and seed"),
}


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: broken.__name__)
def test_a_record_that_cannot_count_is_named_everywhere_and_left_out(board, broken):
    name, reason = BROKEN[broken]
    file = f"demo.tiny/{name}.json"
    assert run(board, "leaderboard", "b").return_value == 0
    broken(board)
    assert 1 not in seeds_of(board)
    checked = run(board, "leaderboard", "b", "--check")
    assert checked.return_value == 1
    assert f"{board}/cells/{file}: " in checked.stdout
    assert reason in checked.stdout
    rendered = run(board, "leaderboard", "b")
    assert (rendered.return_value, rendered.exception) == (0, None)
    assert f"{board}/cells/{file}: " in rendered.stderr
    page = (board / "README.md").read_text(encoding="utf-8")
    assert "## Files left out (" in page
    assert f"| `{file}` |" in page or file.replace("(", r"\(").replace(")", r"\)") in page
    assert reason.split(":")[0] in page.replace("\\", "")
    assert run(board, "leaderboard", "b", "--check").return_value == 1
    listed = json.loads(run(board, "leaderboard", "b", "--check", "--json").stdout)["b"]["differs"]
    assert any(file in line for line in listed)


def test_without_a_protocol_in_board_toml_the_commonest_one_counts(board):
    for seed in (0, 1):
        change(board, f"kd.s{seed}", protocol={**PROTOCOL, "batch": 64})
    assert {p.file for p in load(board).problems} == {"demo.tiny/kd.s0.json", "demo.tiny/kd.s1.json"}


# ---------------------------------------------------------------------------------------------------- hostile records

SOUND, SCORES = record("evil", 0, columns={"missing-slots": (np.linspace(0, 1, 40), "lower", "%")})


def within(path, value):
    data = json.loads(json.dumps(SOUND))
    *way, last = path.split("/")
    inner = data
    for step in way:
        inner = inner[step]
    inner[last] = value
    return json.dumps(data)


HOSTILE = {
    "nan": within("metrics/missing-slots/value", "@").replace('"@"', "NaN"),
    "huge": within("metrics/missing-slots/value", "@").replace('"@"', "1e999"),
    "digits": within("seed", "@").replace('"@"', "9" * 5000),
    "huge int": within("metrics/missing-slots/n", 10**300),
    "huge lr": within("method/lr", 1e308),
    "huge cost": within("cost", {"train_device_seconds": 1e308, "teacher_device_seconds": 1e308}),
    "huge points": within("points", {"25": {"tokens_trained": 1e308, "update_device_seconds": -1e308}}),
    "odd points": within("points", {"250": {"tokens_trained": "many"}}),
    "point of nothing": within("metrics/missing-slots/point", {"metric": "x" * 200, "percent": 50}),
    "negative cost": within("cost", {"train_device_seconds": -5, "peak_memory_bytes": -1e300}),
    "type": within("method", ["kd"]),
    "types": within("provenance", {"code": ["x"], "command": {"rm": "-rf"}, "git": 3, "packages": "all", "notes": []}),
    "protocol types": within("protocol", {**PROTOCOL, "split": {"a": [None]}, "steps": [1]}),
    "param types": within("method/params", {"a": {"b": [1, None, {"c": "<b>"}]}, "": ""}),
    "deep": within("method/params", "@").replace('"@"', '{"a":' * 900 + "1" + "}" * 900),
    "path of scores": within("scores/file", "../../../../etc/passwd"),
    "path of cell": within("cell", "../../evil"),
    "no examples": within("scores/examples", 1),
    "empty name": within("method/name", ""),
    "null": "null",
    "nothing": "",
    "bytes": b"\xff\xfe\x00",
    "surrogate": within("method/selector", "@").replace("@", "\\ud800"),
}


@pytest.mark.parametrize("content", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_record_breaks_no_command(board, content):
    path = put(board, SOUND, SCORES)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    for arguments in (
        ("leaderboard", "b"),
        ("export", "csv", "b"),
        ("export", "csv", "b", "--estimates"),
        ("export", "jsonl", "b"),
        ("export", "latex", "b"),
        ("compare", "plad", "sft", "--board", "b", "--json"),
        ("export", "model-card", "demo.tiny/plad.s0"),
    ):
        result = run(board, *arguments)
        assert result.exception is None, (arguments, result.exception)
        assert "passwd" not in result.stdout
    for arguments in (("export", "model-card", "evil.s0"), ("export", "model-index", "evil.s0"), ("show", "evil.s0")):
        result = run(board, *arguments)
        assert result.exception is None or hasattr(result.exception, "remedy"), (arguments, result.exception)


@pytest.mark.parametrize("name", [b"\xff", b"a\nb", b"\x1b[31m", "\u202e".encode(), b"=1+1", b"<b>|`"])
def test_a_file_may_have_any_name(board, name):
    (board / "cells" / f"{os.fsdecode(name)}.json").write_text("{}")
    checked = run(board, "leaderboard", "b", "--check")
    assert checked.return_value == 1
    assert run(board, "leaderboard", "b").exception is None
    page = (board / "README.md").read_text(encoding="utf-8")
    for text in (page, checked.stdout):
        assert not set(text) & set("\x1b\u202e")
    assert "<b>" not in page
