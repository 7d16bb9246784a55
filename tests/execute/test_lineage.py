"""Which versions of the code made what a record rests on: in the manifest, the record, the plan and on the page."""

import json
from pathlib import Path

import pytest
from instant import Program

from plad_bench.execute import provenance, recording
from plad_bench.execute.store import Artifact, Store, seal
from plad_bench.leaderboard.loading import load
from plad_bench.records import storage

WHAT = ("--methods", "plad", "--metrics", "rouge-l,length", "--teacher", "scratch[steps=3]", "--gpus", "none")
CELL = "demo/tiny+scratch-steps=3/plad/seed-0"
FIRST = ["data", "distill", "generate with distill", "init", "pairs", "sample", "score length", "score rouge-l"]
FIRST += ["sft-init", "teach", "teacher", "tokenizer"]


@pytest.fixture
def program(tmp_path, monkeypatch):
    return Program(tmp_path, monkeypatch)


@pytest.fixture
def code(monkeypatch):
    """Sets the version of the code."""

    def set_(version):
        monkeypatch.setattr(provenance, "code_hash", lambda: version)

    set_("first")
    return set_


def record(board="quickstart"):
    return storage.read(Path("leaderboards", board, "cells", f"{CELL}.json"))


def told(of):
    return {(e["code"], e.get("older", False)): e["stages"] for e in of.provenance["lineage"]}


def forget(stage, program):
    """Remove the artifacts of a stage from the store."""
    store = Store(program.directory / "store")
    found = [artifact for artifact in store.artifacts() if artifact.stage == stage]
    for artifact in found:
        store.remove(artifact.path)
    assert found


def test_a_record_tells_the_version_of_every_stage_that_it_rests_on(program, code):
    program("run", *WHAT)
    assert told(record()) == {("first", False): FIRST}
    code("second")
    program("run", *WHAT, "--metrics", "rouge-2", "--board", "other")
    model = record("other").provenance
    assert model["code"] == "first"
    assert told(record("other"))["second", False] == ["score rouge-2"]
    assert "score rouge-2" not in told(record("other"))["first", False]


def test_stages_that_a_new_version_took_from_an_old_one_are_older_on_record_plan_and_page(program, code):
    program("run", *WHAT)
    code("second")
    forget("distill", program)
    program("run", *WHAT, "--board", "other", "--steps", "7")
    assert program.made == ["distill", "generate", "score", "score"]
    made = record("other")
    assert made.provenance["code"] == "second"
    assert told(made) == {
        ("second", False): ["distill", "generate with distill", "score length", "score rouge-l"],
        ("first", True): ["data", "init", "pairs", "sample", "sft-init", "teach", "teacher", "tokenizer"],
    }
    page = Path("leaderboards/other/README.md").read_text()
    stages = "data, init, pairs, sample, sft-init, teach, teacher, tokenizer"
    assert f"**Records with older stages:** 1 record, {stages} by version `first`." in page
    shown = json.loads(program("plan", *WHAT, "--board", "other", "--steps", "7", "--json").stdout)["cells"]
    (row,) = [row for row in shown if row["cell"] == CELL]
    assert row["state"] == "cached (stale)"
    assert "teacher" in row["reason"]


@pytest.mark.slow
def test_rerun_stale_makes_again_all_that_is_stale_and_then_nothing(program, code):
    program("run", *WHAT)
    everything = sorted(program.made)
    code("second")
    program("run", *WHAT)
    assert program.made == []
    program("run", *WHAT, "--rerun", "stale")
    assert sorted(program.made) == everything
    assert told(record()) == {("second", False): FIRST}
    program("run", *WHAT, "--rerun", "stale")
    assert program.made == []


@pytest.mark.slow
def test_a_teacher_that_was_made_anew_does_not_make_what_rests_on_the_old_one_new(program, code):
    program("run", *WHAT)
    code("second")
    forget("teacher", program)
    forget("sft-init", program)
    program("run", *WHAT, "--methods", "kd", "--board", "another")
    assert "teacher" in program.made
    program("run", *WHAT, "--board", "anew")
    assert program.made == []
    assert told(record("anew")) == {("first", False): FIRST}


def test_other_packages_are_another_version(program, code, monkeypatch):
    program("run", *WHAT)
    monkeypatch.setattr(provenance, "packages", lambda: {"torch": "0"})
    forget("distill", program)
    program("run", *WHAT, "--board", "other", "--steps", "9")
    older = [e for e in record("other").provenance["lineage"] if e.get("older")]
    assert [e["code"] for e in older] == ["first"]
    assert older[0]["packages"] != {"torch": "0"}
    assert "by version `first` with other packages" in Path("leaderboards/other/README.md").read_text()


def test_what_ships_with_a_task_is_told_and_never_stale(program, code):
    demo = ("--methods", "seqkd", "--gpus", "none")
    program("run", *demo)
    assert "teacher" not in program.made
    path = Path("leaderboards/quickstart/cells/demo/tiny+small/seqkd/seed-0.json")
    made = storage.read(path)
    (shipped,) = [e for e in made.lineage if "teacher" in e["stages"]]
    assert shipped["older"]
    assert shipped["code"] != "first"
    assert recording.stale(made) == []
    program("run", *demo, "--rerun", "stale")
    assert program.made == []


def test_a_metric_that_is_kept_keeps_its_version(program, code):
    program("run", *WHAT, "--metrics", "rouge-l")
    code("second")
    program("run", *WHAT, "--metrics", "length")
    assert set(record().metrics) == {"rouge-l", "length"}
    assert "score rouge-l" in told(record())["first", False]
    assert told(record())["second", False] == ["score length"]


def test_artifacts_of_earlier_versions_tell_what_the_store_knows(program, code):
    program("run", *WHAT)
    store = Store(program.directory / "store")
    for artifact in list(store.artifacts()):
        del artifact.manifest["provenance"]["lineage"]
        artifact.manifest["seal"] = seal(artifact.manifest)
        (artifact.path / "manifest.json").write_text(json.dumps(artifact.manifest))
    program("run", *WHAT, "--board", "other")
    assert program.made == []
    assert told(record("other")) == {("first", False): FIRST}


def test_a_page_says_which_records_do_not_tell(program, code):
    program("run", *WHAT)
    path = Path("leaderboards/quickstart/cells") / f"{CELL}.json"
    data = json.loads(path.read_text())
    del data["provenance"]["lineage"]
    path.write_text(json.dumps(data))
    assert load(Path("leaderboards/quickstart")).untold == 1
    program("leaderboard")
    assert "1 record does not name" in Path("leaderboards/quickstart/README.md").read_text()


@pytest.mark.parametrize(
    "hostile", [3, [3], [{"code": "x"}], [{"code": {}, "stages": [[]]}], [{"stages": "x", "code": "y"}]]
)
def test_a_lineage_that_is_none_costs_no_page(program, code, hostile):
    program("run", *WHAT)
    path = Path("leaderboards/quickstart/cells") / f"{CELL}.json"
    data = json.loads(path.read_text())
    data["provenance"]["lineage"] = hostile
    path.write_text(json.dumps(data))
    program("leaderboard")
    program("plan", *WHAT)


def test_an_artifact_ships_where_its_directory_is_not_named_by_the_whole_key(tmp_path):
    assert Artifact(tmp_path / "ab" / ("f" * 16), {"key": "f" * 64}).shipped
    assert not Artifact(tmp_path / "ab" / ("f" * 64), {"key": "f" * 64}).shipped


# --------------------------------------------------------------------------------------------------- what is missing


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage", ["data", "init", "teacher", "sft-init", "teach", "sample", "pairs", "distill", "generate"]
)
def test_a_new_board_needs_no_artifact_that_is_gone(stage, program, code):
    """Whatever was deleted: what a record tells of is made again, and the records are those of an undisturbed run."""
    program("run", *WHAT)
    before = record()
    forget(stage, program)
    program("run", *WHAT, "--board", "other")
    after = record("other")
    assert after.key == before.key
    assert {k: m.value for k, m in after.metrics.items()} == {k: m.value for k, m in before.metrics.items()}
    assert after.samples is not None
    assert after.samples.sha256 == before.samples.sha256
    assert after.cost.keys() >= {"train_device_seconds"}
    assert after.provenance["code"] == "first"


def test_one_metric_more_trains_nothing_again_although_the_checkpoint_is_gone(program, code):
    program("run", *WHAT)
    before = record()
    forget("distill", program)
    program("run", *WHAT, "--metrics", "rouge-2")
    assert program.made == ["score"] * 4
    after = record()
    assert set(after.metrics) == {"rouge-l", "length", "rouge-2"}
    assert after.cost == before.cost
    assert after.counts == before.counts
    assert after.samples == before.samples
