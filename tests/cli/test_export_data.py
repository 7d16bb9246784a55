"""The data of a task with Croissant metadata: true hashes, and readable by the loader of its inventors."""

from __future__ import annotations

import hashlib
import json

import pytest
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.render import croissant


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    directory = tmp_path_factory.mktemp("data")
    result = CliRunner().invoke(cli, ["export", "data", "demo", str(directory)], standalone_mode=False)
    assert result.exception is None
    return directory


def rows(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_the_metadata_name_each_file_with_its_size_and_hash(demo):
    said = json.loads((demo / "croissant.json").read_text())
    assert (said["@type"], said["name"], said["license"]) == (
        "sc:Dataset",
        "demo",
        "https://spdx.org/licenses/CC0-1.0.html",
    )
    assert [file["@id"] for file in said["distribution"]] == ["train.jsonl", "validation.jsonl", "test.jsonl"]
    for file in said["distribution"]:
        content = (demo / file["contentUrl"]).read_bytes()
        assert file["sha256"] == hashlib.sha256(content).hexdigest()
        assert file["contentSize"] == f"{len(content)} B"
    fields = [field["source"]["extract"]["column"] for field in said["recordSet"][0]["field"]]
    assert [*rows(demo / "train.jsonl")[0]] == fields == ["id", "prompt", "references"]


def test_the_files_are_the_splits_of_the_task(demo):
    counts = {split: len(rows(demo / f"{split}.jsonl")) for split in ("train", "validation", "test")}
    assert counts["test"] == 424
    ids = [row["id"] for split in counts for row in rows(demo / f"{split}.jsonl")]
    assert len(set(ids)) == len(ids)


def test_data_without_the_right_to_pass_it_on_stays(tmp_path):
    (tmp_path / "own.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    arguments = ["export", "data", f"jsonl[path={tmp_path / 'own.jsonl'}]", str(tmp_path / "out")]
    result = CliRunner().invoke(cli, arguments)
    assert "may not be redistributed (licence: not known to plad-bench)" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_a_licence_without_an_identifier_is_given_in_words():
    said = json.loads(croissant.metadata(croissant.DataSet("x", "y", "CC BY-SA 4.0", "1.0.0"), {"test": b""}))
    assert said["license"] == "CC BY-SA 4.0"


@pytest.mark.filterwarnings("ignore")  # of rdflib's deprecated classes
def test_mlcroissant_accepts_the_metadata_reads_the_rows_and_checks_the_hashes(demo, tmp_path):
    mlcroissant = pytest.importorskip("mlcroissant", reason="no mlcroissant: pip install 'plad-bench[croissant]'")
    data = mlcroissant.Dataset(jsonld=demo / "croissant.json")
    assert not data.metadata.ctx.issues.errors
    expected = rows(demo / "validation.jsonl")
    read = list(data.records("validation"))
    assert len(read) == len(expected)
    assert read[0]["validation/prompt"].decode() == expected[0]["prompt"]
    assert [text.decode() for text in read[0]["validation/references"]] == expected[0]["references"]
    for name in ("croissant.json", "train.jsonl", "validation.jsonl"):
        (tmp_path / name).write_bytes((demo / name).read_bytes())
    (tmp_path / "test.jsonl").write_bytes((demo / "test.jsonl").read_bytes()[:-1])
    with pytest.raises(Exception, match=r"test\.jsonl"):
        list(mlcroissant.Dataset(jsonld=tmp_path / "croissant.json").records("test"))
