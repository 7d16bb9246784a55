"""A record round-trips, old ones migrate, and hostile ones are refused with a reason or made harmless."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic import digest, record

from plad_bench.contract import names
from plad_bench.records import storage


def valid():
    data, _ = record(
        "kd", columns={"rouge-l": (np.array([0.25, 0.5, np.nan]), "higher", "%")}, params={"temperature": 2.0}
    )
    return data


def refused(text):
    with pytest.raises(storage.RecordError) as caught:
        storage.parse(text if isinstance(text, str) else json.dumps(text), "cell.json")
    return str(caught.value)


def changed(path, value):
    data = valid()
    *way, last = path.split("/")
    inner = data
    for step in way:
        inner = inner[step]
    inner[last] = value
    return data


def test_a_record_round_trips_byte_by_byte(tmp_path):
    first = storage.parse(json.dumps(valid()), "x")
    text = storage.dumps(first)
    assert storage.dumps(storage.parse(text, "x")) == text
    assert storage.parse(text, "x") == first
    storage.write(tmp_path / "a" / "cell.json", first)
    assert (tmp_path / "a" / "cell.json").read_text() == text
    assert storage.read(tmp_path / "a" / "cell.json") == first


def test_keys_that_outsiders_read():
    data = json.loads(storage.dumps(storage.parse(json.dumps(valid()), "x")))
    assert {"schema", "cell", "key", "status", "seed", "cost", "timing", "provenance"} <= data.keys()
    assert [data[part]["name"] for part in ("task", "teacher", "student", "method")] == [
        "demo",
        "demo-teacher",
        "tiny",
        "kd",
    ]
    assert data["method"]["params"] == {"temperature": 2.0}
    assert {"value", "better", "n", "stderr"} <= data["metrics"]["rouge-l"].keys()


def test_an_older_schema_migrates_and_a_newer_one_is_refused():
    old = valid()
    old["schema"], old["budget"] = 0, old.pop("protocol")
    assert storage.parse(json.dumps(old), "x") == storage.parse(json.dumps(valid()), "x")
    assert "schema 3" in refused({**valid(), "schema": 3})


def test_essence_leaves_out_what_differs_between_equal_runs():
    one = storage.parse(json.dumps({**valid(), "cost": {"train_device_seconds": 1.0}}), "x")
    two = storage.parse(json.dumps({**valid(), "cost": {}, "timing": {"distill": 3}, "provenance": {}}), "x")
    assert one.essence() == two.essence()


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("seed", "0", "seed"),
        ("seed", -1, "seed"),
        ("seed", 2**70, "seed"),
        ("seed", True, "seed"),
        ("metrics/rouge-l/value", "54", "metrics.rouge-l.value"),
        ("metrics/rouge-l/n", 1.5, "metrics.rouge-l.n"),
        ("metrics/rouge-l/better", "up", "metrics.rouge-l.better"),
        ("metrics", [], "metrics"),
        ("cost", {"x": "1"}, "cost.x"),
        ("cost", {"x": 10**400}, "cost.x"),
        ("method/name", "", "method.name"),
        ("method/name", "m" * 400, "method.name"),
        ("status", "won", "status"),
        ("surprise", 1, "surprise"),
        ("cell", "../../elsewhere", "cell"),
        ("cell", "/absolute", "cell"),
        ("cell", "a//b", "cell"),
        ("cell", "a/.hidden", "cell"),
        ("cell", "a\nb", "cell"),
        ("scores/file", "../kd.s0.scores.parquet", "scores.file"),
        ("scores/file", "C:\\x", "scores.file"),
        ("scores/sha256", "abc", "scores.sha256"),
        ("scores/examples", 0, "scores.examples"),
    ],
)
def test_wrong_values_are_refused_by_name(path, value, named):
    assert f"cell.json: {named}" in refused(changed(path, value))


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 5000])
@pytest.mark.parametrize("path", ["metrics/rouge-l/value", "method/params/temperature", "provenance/x"])
def test_numbers_that_are_none_are_refused(number, path):
    assert "cell.json" in refused(json.dumps(changed(path, "@")).replace('"@"', number))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"schema": 1}', '"\\ud800"'])
def test_what_is_no_record_is_refused(text):
    assert "cell.json" in refused(text)


def test_files_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "a.json").write_bytes(b"\xff\xfe{}")
    (tmp_path / "b.json").mkdir()
    for name in ("a.json", "b.json", "c.json"):
        with pytest.raises(storage.RecordError, match=name):
            storage.read(tmp_path / name)


def test_a_record_that_is_no_json_is_not_written(tmp_path):
    good = storage.parse(json.dumps(valid()), "x")
    bad = good.model_copy(update={"provenance": {"x": float("nan")}})
    with pytest.raises(storage.RecordError):
        storage.write(tmp_path / "cell.json", bad)
    assert not list(tmp_path.iterdir())


def test_scores_round_trip_with_gaps_and_the_same_bytes(tmp_path):
    columns = {"b": np.array([1.0, np.nan]), "a": np.array([0, 1])}
    data = storage.scores_bytes(["x", "y"], columns)
    assert data == storage.scores_bytes(["x", "y"], dict(reversed(columns.items())))
    (tmp_path / "s.parquet").write_bytes(data)
    ids, read = storage.read_scores(tmp_path / "s.parquet", digest(data), 2)
    assert ids == ("x", "y")
    np.testing.assert_array_equal(read["b"], columns["b"])
    np.testing.assert_array_equal(read["a"], [0.0, 1.0])


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        (pa.table({"example": ["x", "x"], "m": [1.0, 2.0]}), "several have the same id"),
        (pa.table({"example": ["x", None], "m": [1.0, 2.0]}), "no id"),
        (pa.table({"example": [1, 2], "m": [1.0, 2.0]}), "no id"),
        (pa.table({"example": ["x", "y"], "m": [1.0, float("inf")]}), "at most"),
        (pa.table({"example": ["x", "y"], "m": ["1", "2"]}), "at most"),
        (pa.table({"m": [1.0, 2.0]}), "not a table of scores"),
        (pa.table({"example": ["x"], "m": [1.0]}), "has 1 examples"),
        (None, "not a table of scores"),
    ],
)
def test_scores_that_are_none_are_refused(tmp_path, table, reason):
    file = tmp_path / "s.parquet"
    file.write_bytes(b"PAR1 but no more") if table is None else pq.write_table(table, file)
    with pytest.raises(storage.RecordError, match=reason):
        storage.read_scores(file, digest(file.read_bytes()), 2)


def test_edited_or_missing_scores_are_noticed(tmp_path):
    data = storage.scores_bytes(["x"], {"m": np.array([1.0])})
    (tmp_path / "s.parquet").write_bytes(data[:-1] + b"x")
    with pytest.raises(storage.RecordError, match="hash differs"):
        storage.read_scores(tmp_path / "s.parquet", digest(data))
    with pytest.raises(storage.RecordError, match="missing"):
        storage.read_scores(tmp_path / "none.parquet", digest(data))


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "CON.", "x" * 300, "\x00", "kd[temperature=2]"])
def test_a_slug_is_one_safe_part_of_a_path(name):
    slug = names.slug(name)
    assert slug
    assert len(slug) <= 80
    assert not set(slug) - set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.=_-")
    assert not slug.startswith(".")


def test_scores_are_written_without_pandas():
    import subprocess
    import sys

    code = (
        "import sys, numpy; from plad_bench.records import storage; "
        "storage.scores_bytes(['a', 'b'], {'m': numpy.array([1.0, numpy.nan])}); "
        "sys.exit('pandas' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
