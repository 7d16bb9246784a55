"""spelled-dates keeps the claims of check-plugin, reads every row, and gets a board."""

from datetime import date

import pytest
from plad_bench import BadRow, Example, MissingError, Source

from spelled_dates import plugin
from spelled_dates.plugin import TASK, SpelledDatesParams, load


def test_it_keeps_every_claim(plad_bench_check):
    plad_bench_check(plugin)


def test_every_row_is_a_date_and_the_same_date_spelled_out():
    *rows, source = load(SpelledDatesParams())
    assert source == Source(name="dates.csv", rows=400)
    assert len({row.prompt for row in rows}) == 400
    for row in rows:
        assert isinstance(row, Example)
        day = date.fromisoformat(row.prompt)
        assert row.references == (f"{day.day} {day:%B %Y}",)


def test_rows_of_your_own_are_read_and_a_bad_one_is_named(tmp_path):
    file = tmp_path / "mine.csv"
    file.write_text("date,text\n2000-01-02,2 January 2000\n2000-01-03,\n")
    first, second, source = load(SpelledDatesParams(path=file))
    assert first == Example(prompt="2000-01-02", references=("2 January 2000",))
    assert second == BadRow(where="mine.csv, row 2", reason="has no date, or no text")
    assert source.rows == 2


def test_a_file_that_is_not_there_is_missing_before_any_work(tmp_path):
    with pytest.raises(MissingError, match=r"no file .*absent\.csv"):
        TASK.require(SpelledDatesParams(path=tmp_path / "absent.csv"))


def test_it_gets_a_board(throwaway_board):
    small = {"student": "tiny-student", "teacher": "tiny-teacher", "steps": 2, "sft_steps": 2}
    (group,) = throwaway_board(plugin, task="spelled-dates", methods="sft", **small).groups
    assert (group.task, [row.label for row in group.rows]) == ("spelled-dates", ["sft"])
