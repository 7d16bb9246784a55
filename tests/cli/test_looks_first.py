"""Data and recorded responses are read before any work, by `plan` and by `run` alike."""

from __future__ import annotations

import json

import pytest
import tiny

from plad_bench.cli.main import main
from plad_bench.execute.stages import data
from plad_bench.plan.chosen import choose

ROWS = [{"prompt": f"what is item {i} of list {i % 7}?", "response": f"it is {i}"} for i in range(120)]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty directory to work in, with a store that nothing has made yet."""
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))
    return tmp_path / "work"


def write(file, rows):
    file.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))


@pytest.fixture
def said(place, capsys):
    """A function: verb and options -> (exit code, stdout, stderr)."""

    def run(verb, *options):
        with pytest.raises(SystemExit) as ended:
            main([verb, "--student", "tiny", "--gpus", "none", "--methods", "seqkd", "--metrics", "length", *options])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return ended.value.code, captured.out, captured.err

    return run


def untouched(place):
    """Whether neither a store nor a board was made."""
    return not (place.parent / "store").exists() and not (place / "leaderboards").exists()


def test_plan_counts_every_row_and_says_how_files_were_read(place, said):
    (place / "d").mkdir()
    write(place / "d" / "a.jsonl", [*ROWS[:100], "no JSON"])
    (place / "d" / "b.csv").write_text(
        "prompt; response\n" + "".join(f"{r['prompt']}; {r['response']}\n" for r in ROWS[100:])
    )
    (place / "d" / "README.md").write_text("About the data.")
    code, out, err = said("plan", "--task", "jsonl[path=d]")
    assert code == 0, err
    assert "121 rows: 120 read, 1 refused; the first: a.jsonl, line 101: not JSON" in out
    assert "b.csv: columns are separated by semicolons (;)" in out
    assert "README.md was not read: not data" in out
    code, out, _ = said("plan", "--task", "jsonl[path=d]", "--json")
    (counts,) = json.loads(out)["data"].values()
    assert (counts["rows"], counts["rows_read"], counts["bad_rows"]) == (121, 120, 1)
    assert sum(counts[f"{name}_prompts"] for name in data.SHARES) == 120
    assert untouched(place)


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_data_that_cannot_be_used_stops_before_any_work(place, said, verb):
    write(place / "qa.jsonl", [{"question": r["prompt"], "answer": r["response"]} for r in ROWS])
    code, _, err = said(verb, "--task", "jsonl[path=qa.jsonl]")
    assert code == 1
    assert "120 of 120 rows cannot be used: qa.jsonl, line 1: no field prompt" in err
    assert "it has the fields 'question', 'answer'; try prompt=question, response=answer?" in err
    write(place / "few.jsonl", ROWS[:2])
    code, _, err = said(verb, "--task", "jsonl[path=few.jsonl]")
    assert code == 1
    assert "split is empty" in err
    assert untouched(place)


@pytest.mark.parametrize("verb", ["plan", "run"])
def test_a_recorded_teacher_that_lacks_responses_is_told_before_any_work(place, said, verb):
    write(place / "mine.jsonl", ROWS)
    write(place / "said.jsonl", ROWS[:117])
    code, _, err = said(verb, "--task", "jsonl[path=mine.jsonl]", "--teacher", "recorded[path=said.jsonl]")
    assert code == 1
    assert "missing for 3 of the 91 prompts of the train split: 'what is item 119 of list 0?'" in err
    assert "missing=skip allows 5%" in err
    write(place / "said.jsonl", [*ROWS, *["no JSON"] * 20])
    code, _, err = said(verb, "--task", "jsonl[path=mine.jsonl]", "--teacher", "recorded[path=said.jsonl]")
    assert code == 1
    assert "20 of 140 rows cannot be used: said.jsonl, line 121: not JSON" in err
    assert untouched(place)


def test_missing_responses_within_the_share_are_planned(place, said):
    write(place / "mine.jsonl", ROWS)
    write(place / "said.jsonl", ROWS[:117])
    code, out, err = said(
        "plan", "--task", "jsonl[path=mine.jsonl]", "--teacher", "recorded[path=said.jsonl,missing=skip]"
    )
    assert code == 0, err
    assert "skipped" not in out
    assert "117 rows: 117 read, 0 refused\n  3 prompts have no response (missing=skip)" in out


def test_a_teacher_of_the_training_split_alone_loses_its_own_row(place, said):
    write(place / "mine.jsonl", ROWS)
    (task,) = choose(tiny.registry(), "task", f"jsonl[path={place / 'mine.jsonl'}]")
    training = {p.prompt for p in data.preview(task).prompts if p.split == "train"}
    write(place / "said.jsonl", [row for row in ROWS if row["prompt"] in training])
    given = ("--task", "jsonl[path=mine.jsonl]", "--teacher", "recorded[path=said.jsonl]", "--json")
    code, out, err = said("plan", *given)
    assert code == 0, err
    states = {cell["cell"].split("/")[-2]: cell for cell in json.loads(out)["cells"]}
    assert states["seqkd"]["state"] == "to run"
    assert states["teacher"]["state"] == "skipped"
    assert states["teacher"]["reason"] == "recorded responses are missing for 18 of the 18 prompts of the test split"
    code, _, err = said("plan", *given, "--metrics", "length,agreement")
    assert code == 1
    assert "leave win-teacher and agreement out of --metrics" in err


def test_prompts_to_answer_are_written_by_split(place, capsys):
    write(place / "mine.jsonl", ROWS)

    def exported(*options):
        with pytest.raises(SystemExit) as ended:
            main(["export", "prompts", "--task", "jsonl[path=mine.jsonl]", *options])
        captured = capsys.readouterr()
        assert ended.value.code == 0, captured.err
        return captured.out

    rows = [json.loads(line) for line in exported().splitlines()]
    assert {row["prompt"] for row in rows} == {row["prompt"] for row in ROWS}
    assert [row["split"] for row in rows] == sorted((row["split"] for row in rows), key=list(data.SHARES).index)
    some = [json.loads(line) for line in exported("--split", "train", "--split", "test").splitlines()]
    assert some == [row for row in rows if row["split"] != "validation"]
    assert exported("-o", "prompts.jsonl") == ""
    answered = [{**json.loads(line), "response": "x"} for line in (place / "prompts.jsonl").read_text().splitlines()]
    write(place / "said.jsonl", [{k: v for k, v in row.items() if k != "prompt"} for row in answered])
    with pytest.raises(SystemExit) as ended:
        main(
            [
                *("plan", "--task", "jsonl[path=mine.jsonl]", "--student", "tiny", "--methods", "seqkd"),
                *("--teacher", "recorded[path=said.jsonl]", "--gpus", "none"),
            ]
        )
    assert ended.value.code == 0, capsys.readouterr().err
