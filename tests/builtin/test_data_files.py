"""Files with rows: every format, compressed or not, what a directory may hold, and no row that vanishes."""

from __future__ import annotations

import bz2
import csv
import gzip
import json
import lzma
import random
from pathlib import Path

import pyarrow as pa
import pyarrow.feather
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from plad_bench import BadRow, MissingError, Source, StageError, UsageError
from plad_bench.contract import jsonlines
from plad_bench.contract.registry import Registry
from plad_bench.contract.rows import Account, lines
from plad_bench.plan.chosen import choose
from plad_bench_plugins import _data_files
from plad_bench_plugins._data_files import DataRow, listed


def read(path):
    """(values of good rows, bad rows, sources)."""
    found = list(_data_files.rows(listed(path)))
    rows = [item.values for item in found if isinstance(item, DataRow)]
    bad = [item for item in found if isinstance(item, BadRow)]
    sources = [item for item in found if isinstance(item, Source)]
    assert sum(s.rows or 0 for s in sources) == len(rows) + len(bad)
    return rows, bad, sources


def row(number):
    return {"prompt": f"question {number}", "response": f"answer, {number}"}


def write_csv(path, rows, delimiter=","):
    with path.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, ["prompt", "response"], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(rows)


def json_lines(*rows):
    return b"".join(json.dumps(r).encode() + b"\n" for r in rows)


# ------------------------------------------------------------------------------------------------------------- formats


def test_every_format_is_read_and_compressed_as_well(tmp_path):
    table = pa.Table.from_pylist([row(i) for i in range(3)])
    text = json_lines(*map(row, range(3)))
    compressed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(compressed, "zstd") as stream:
        stream.write(text)
    (tmp_path / "a.jsonl").write_bytes(text)
    (tmp_path / "b.ndjson.gz").write_bytes(gzip.compress(text[:50]) + gzip.compress(text[50:]))
    (tmp_path / "c.jsonl.bz2").write_bytes(bz2.compress(text))
    (tmp_path / "d.jsonl.xz").write_bytes(lzma.compress(text))
    (tmp_path / "e.jsonl.zst").write_bytes(compressed.getvalue())
    (tmp_path / "f.json").write_text(json.dumps([row(i) for i in range(3)], indent=1))
    write_csv(tmp_path / "g.csv", [row(i) for i in range(3)])
    write_csv(tmp_path / "h.TSV", [row(i) for i in range(3)], "\t")
    pq.write_table(table, tmp_path / "i.parquet")
    (tmp_path / "j.parquet.gz").write_bytes(gzip.compress((tmp_path / "i.parquet").read_bytes()))
    pyarrow.feather.write_feather(table, tmp_path / "k.feather")
    with pyarrow.ipc.new_stream(tmp_path / "l.arrow", table.schema) as stream:
        stream.write_table(table)
    files = sorted(p.name for p in tmp_path.iterdir())
    rows, bad, sources = read(tmp_path)
    assert rows == [row(i) for i in range(3)] * len(files)
    assert bad == []
    assert sources == [Source(name=name, rows=3) for name in files]


@pytest.mark.parametrize("name", ["x.jsonl.gz", "x.jsonl.bz2", "x.jsonl.xz", "x.jsonl.zst", "x.arrow", "x.parquet"])
def test_a_file_that_is_cut_short_or_is_another_kind_is_named(tmp_path, name):
    (tmp_path / name).write_bytes(b"not what it says")
    with pytest.raises(StageError, match=f"{name} (does not match its suffix|is not)"):
        read(tmp_path)
    if name.endswith("gz"):
        text = json_lines(*map(row, range(3000)))
        (tmp_path / name).write_bytes(gzip.compress(text)[:-200])
        with pytest.raises(StageError, match=r"is truncated, after \d+ rows"):
            read(tmp_path)


def test_an_object_over_several_lines_is_no_list_of_rows(tmp_path):
    (tmp_path / "x.json").write_text(json.dumps({"version": 1, "data": [row(1)]}, indent=1))
    with pytest.raises(StageError, match=r"x\.json is one JSON object, with the fields 'version', 'data'"):
        read(tmp_path)
    (tmp_path / "x.json").write_text(json.dumps(row(1)))
    assert read(tmp_path)[0] == [row(1)]


# --------------------------------------------------------------------------------------------------------- JSON Lines

SEPARATORS = "\u2028\u2029\x85\x0b\x0c\x1c\x1d\x1e\r"


def test_only_a_line_feed_ends_a_line(tmp_path):
    texts = [f"a{c}b" for c in SEPARATORS]
    rows = [json.dumps({"prompt": t, "response": "x"}, ensure_ascii=False) for t in texts]
    (tmp_path / "x.jsonl").write_bytes(("\ufeff" + "\r\n".join(rows) + "\r\n\r\n").encode())
    found, bad, _ = read(tmp_path / "x.jsonl")
    assert [r["prompt"] for r in found] == texts
    assert bad == []


@pytest.mark.parametrize("text", [*SEPARATORS, "\ud83d", "\x00", "\u2028\n\r", "é"])
def test_what_the_harness_writes_it_reads(tmp_path, text):
    rows = [{"text": f"a{text}b", "n": 1.5}, {"text": text, "n": None}]
    jsonlines.write_lines(tmp_path / "x.jsonl", rows)
    assert list(jsonlines.read_lines(tmp_path / "x.jsonl")) == rows
    assert (tmp_path / "x.jsonl").read_bytes().count(b"\n") == 2


def test_a_field_that_is_there_twice_is_no_row(tmp_path):
    (tmp_path / "x.jsonl").write_text('{"prompt": "a", "prompt": "b", "response": "c"}\n')
    _, bad, _ = read(tmp_path)
    assert bad == [BadRow(where="x.jsonl, line 1", reason="an object has the same field twice")]


# ---------------------------------------------------------------------------------------------------------------- CSV


def table(tmp_path, *text, name="x.csv"):
    (tmp_path / name).write_text("\n".join(text) + "\n", encoding="utf-8")
    return read(tmp_path / name)


def test_an_unclosed_quote_costs_the_row_that_opens_it(tmp_path):
    body = [f"question {i},answer {i}" for i in range(400)]
    body[100] = 'question 100,"answer 100'
    body[250] = '"question 250, with a comma","answer ""250"""'
    body[300] = '"question 300,answer 300'
    rows, bad, _ = table(tmp_path, "prompt,response", *body)
    assert [(b.where, b.reason) for b in bad] == [
        ("x.csv, line 102", "a quote is opened and never closed"),
        ("x.csv, line 302", "a quote is opened and never closed"),
    ]
    assert len(rows) == 398
    assert rows[250] == {"prompt": "question 251", "response": "answer 251"}
    assert rows[249] == {"prompt": "question 250, with a comma", "response": 'answer "250"'}


def test_a_quote_that_closes_elsewhere_never_makes_a_row_of_many(tmp_path):
    body = [f"question {i},answer {i}" for i in range(50)]
    body[10], body[40] = '"question 10,answer 10', 'question 40",answer 40'
    with pytest.raises(StageError, match="the quote opened in line 12 is closed in line 42, and all 31 lines") as told:
        table(tmp_path, "prompt,response", *body)
    assert "Close the quote" in told.value.remedy
    body[40] = 'question" 40,answer 40'
    rows, bad, _ = table(tmp_path, "prompt,response", *body)
    assert [b.where for b in bad] == ["x.csv, line 12", "x.csv, line 42"]
    assert len(rows) == 48


def test_texts_of_many_lines_stay_whole(tmp_path):
    poem = "Roses are red, violets are blue\nand so, my love, are you\n" * 8
    letters = [{"prompt": f"write {i}", "response": poem} for i in range(5)]
    write_csv(tmp_path / "x.csv", letters)
    rows, bad, _ = read(tmp_path / "x.csv")
    assert (rows, bad) == (letters, [])


def test_ragged_rows_are_refused_or_lack_a_field(tmp_path):
    rows, bad, _ = table(tmp_path, "prompt,response", "a", "a,b,c", "", "a,b")
    assert rows == [{"prompt": "a", "response": None}, {"prompt": "a", "response": "b"}]
    assert [(b.where, b.reason) for b in bad] == [("x.csv, line 3", "more columns than the header")]


@pytest.mark.parametrize(
    ("header", "line", "remark"),
    [
        ("prompt;response", "a, b;c", "columns are separated by semicolons (;)"),
        ("prompt\tresponse", "a, b\tc", "columns are separated by tabs (\t)"),
        ("prompt, response", '"a, b", "c"', "the space after each separator belongs to the separator"),
        (" prompt,response ", '"a, b",c', 'spaces around column names are ignored: " prompt", "response "'),
    ],
)
def test_other_separators_and_spaces_in_the_header_are_read_and_named(tmp_path, header, line, remark):
    rows, bad, sources = table(tmp_path, header, line)
    assert (rows, bad) == ([{"prompt": "a, b", "response": "c"}], [])
    assert sources[0].remark == remark


def test_a_header_that_names_a_column_twice_is_refused(tmp_path):
    with pytest.raises(StageError, match=r"the header of x\.csv names prompt more than once"):
        table(tmp_path, "prompt,prompt,response", "a,b,c")


def test_every_line_of_any_csv_is_accounted_for(tmp_path):
    """Broken in any way, a file of lines without quoted line breaks loses no line: each is read or refused."""
    draw = random.Random(0)
    for _ in range(300):
        body = [f"q{i},a{i}" for i in range(draw.randrange(1, 30))]
        for _ in range(draw.randrange(4)):
            i, at = draw.randrange(len(body)), draw.choice([0, 3, None])
            body[i] = body[i][:at] + draw.choice(['"', '""', ",", ' "x" ']) + (body[i][at:] if at is not None else "")
        try:
            rows, bad, _ = table(tmp_path, "prompt,response", *body)
        except StageError as error:
            assert "is closed in line" in error.message  # noqa: PT017
            continue
        spanned = sum(str(v).count("\n") for r in rows for v in r.values())
        assert spanned <= 4 * 4
        assert len(rows) + len(bad) + spanned >= len(body), body


# --------------------------------------------------------------------------------------------------------- directories


@pytest.fixture(scope="module")
def registry():
    return Registry.load()


def chosen(registry, path, task="jsonl"):
    (task,) = choose(registry, "task", f"{task}[path={path}]")
    return task


def test_a_directory_holds_data_alone(registry, tmp_path):
    (tmp_path / "mine.jsonl").write_bytes(json_lines(row(1)))
    (tmp_path / "notes.txt").write_text("x")
    for name in ("jsonl", "tldr", "hh", "e2e"):
        with pytest.raises(UsageError, match=r"holds files other than data, among them notes\.txt") as told:
            chosen(registry, tmp_path, name)
        assert "Choose a file" in told.value.remedy
    with pytest.raises(UsageError, match="files other than data"):
        choose(registry, "teacher", f"recorded[path={tmp_path}]")
    assert chosen(registry, tmp_path / "mine.jsonl").label.startswith("jsonl[path=mine.jsonl-")


def test_the_working_directory_with_its_boards_is_no_data(registry, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_bytes(json_lines(row(1)))
    cells = tmp_path / "leaderboards" / "quickstart" / "cells"
    cells.mkdir(parents=True)
    (cells / "seed-0.json").write_text("{}")
    (cells.parent / "board.toml").write_text("")
    with pytest.raises(UsageError, match=r"among them leaderboards/quickstart/board\.toml"):
        chosen(registry, ".")
    for part in (cells, cells / "seed-0.json"):
        with pytest.raises(UsageError, match="belongs to the board quickstart, which runs write to"):
            chosen(registry, part)


def test_what_lies_beside_data_is_named_and_what_is_hidden_is_not_read(registry, tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "part-0.jsonl").write_bytes(json_lines(row(0)))
    for name in ("README.md", "LICENSE", "dataset_info.json", "part-0.jsonl.sha256"):
        (tmp_path / "data" / name).write_text("{}")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "x.jsonl").write_bytes(json_lines(row(9)))
    rows, _, sources = read(tmp_path)
    assert rows == [row(0)]
    assert [s.name for s in sources if s.rows is None] == [
        "data/LICENSE",
        "data/README.md",
        "data/dataset_info.json",
        "data/part-0.jsonl.sha256",
    ]
    account = Account("x", read=1, sources=sources)
    counts, notes = {}, {}
    account.close(counts, notes)
    assert "data/README.md was not read: not data" in notes["files"]
    assert next(lines(counts, notes)) == "1 rows: 1 read, 0 refused"


def test_links_to_directories_are_not_passed_over(registry, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "x.jsonl").write_bytes(json_lines(row(0)))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "y.jsonl").write_bytes(json_lines(row(1)))
    (tmp_path / "data" / "more").symlink_to(tmp_path / "real")
    with pytest.raises(UsageError, match="among them more"):
        chosen(registry, tmp_path / "data")


def test_a_directory_that_may_not_be_listed_is_named(registry, tmp_path, monkeypatch):
    (tmp_path / "closed").mkdir()
    scan = _data_files.os.scandir

    def refuse(path):
        if Path(path).name == "closed":
            raise PermissionError(13, "Permission denied", str(path))
        return scan(path)

    monkeypatch.setattr(_data_files.os, "scandir", refuse)
    with pytest.raises(MissingError, match="closed cannot be read: Permission denied"):
        chosen(registry, tmp_path)


@pytest.mark.parametrize("path", ["/", "x" * 5000, "~nobody-of-that-name/x"])
def test_odd_places_are_errors_of_ours(registry, path):
    def look():
        task = chosen(registry, path)
        task.component.require(task.params)

    with pytest.raises((UsageError, MissingError)):
        look()


def test_a_home_directory_is_read_and_keyed(registry, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_bytes(json_lines(row(1)))
    assert chosen(registry, "~/mine.jsonl").public() == chosen(registry, tmp_path / "mine.jsonl").public()


# -------------------------------------------------------------------------------------------------------- the account


def test_a_row_that_is_neither_read_nor_refused_stops_the_work():
    account = Account("task x", read=9, sources=[Source(name="a.jsonl", rows=10)])
    with pytest.raises(StageError, match="task x: of 10 rows, 9 were read and 0 refused"):
        account.close({}, {})


def test_hints_reach_the_reader_and_no_record():
    bad = [BadRow(where=f"a, line {i}", reason="no field x", hint="it has 'secret'") for i in range(9)]
    notes = {}
    with pytest.raises(StageError, match="it has 'secret'"):
        Account("task x", bad=bad).close({}, notes)
    assert "secret" not in json.dumps(notes)
