"""Models from a hub, by the real client against a stand-in on loopback: loading, recording, and every refusal."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import hubserver
import pytest
import tiny

from plad_bench.contract import hub as contract
from plad_bench.contract.errors import MissingError
from plad_bench.learn import models
from plad_bench.plan import matrix, requirements, spec
from plad_bench.plan.chosen import choose

PLUGIN = Path(__file__).parents[1] / "plugins" / "mini.py"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """Directories with a tiny Llama, and a tiny GPT-NeoX whose tokenizer has no pad token."""
    place = tmp_path_factory.mktemp("published")
    models.save(tiny.llama(seed=1), tiny.tokenizer(), place / "llama")
    models.save(tiny.neox(seed=2, pad_token_id=None), tiny.tokenizer(pad=None), place / "neox")
    return place


@pytest.fixture
def hub(published, tmp_path, monkeypatch):
    """A hub with both models, that this process takes for the real one, and an empty cache."""
    from huggingface_hub import constants

    with hubserver.serving() as server:
        server.publish("org/llama", published / "llama")
        server.publish("org/neox", published / "neox", tags={"main", "v1"})
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        monkeypatch.setattr(
            constants, "HUGGINGFACE_CO_URL_TEMPLATE", server.url + "/{repo_id}/resolve/{revision}/{filename}"
        )
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        contract.pin({})
        yield server


def cells(student="org/llama", teacher="org/neox", methods="seqkd", **more):
    """The cells of a run with these models of the hub."""
    built = spec.build(
        tiny.registry(),
        task="demo",
        methods=methods,
        student=f"hf[id={student}]",
        teacher=f"hf[id={teacher},steps=0]",
        **more,
    )
    return matrix.cells(built, tiny.registry())


def refused(student, **more):
    """The refusal to run with a student."""
    with pytest.raises(MissingError) as caught:
        requirements.check(cells(student, **more))
    assert caught.value.exit_code == 3
    assert caught.value.remedy
    return str(caught.value)


# ----------------------------------------------------------------------------------------------------- what is there


def test_a_model_is_loaded_by_id_at_the_commit_that_the_hub_gave(hub, tmp_path):
    resolved = models.resolve("org/llama", None)
    assert resolved == {"id": "org/llama", "revision": hub.models["org/llama"].sha}
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / models.POINTER).write_text(json.dumps(resolved))
    hub.asked.clear()
    model, tokenizer = models.load(tmp_path / "model", "cpu", "float32")
    assert hub.asked == []  # what was downloaded is loaded from where it is
    expected = tiny.llama(seed=1).state_dict()
    assert all((value == expected[name]).all() for name, value in model.state_dict().items())
    assert tokenizer.pad_token == "<pad>"


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_token(hub, tmp_path):
    (tmp_path / models.POINTER).write_text(json.dumps(models.resolve("org/neox", "v1")))
    model, tokenizer = models.load(tmp_path, "cpu", "float32")
    assert model.config.model_type == "gpt_neox"
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_the_check_before_a_run_downloads_no_weights(hub):
    requirements.check(cells())
    assert [asked for asked in hub.asked if asked.startswith("GET") and "safetensors" in asked] == []
    assert (contract.located("org/llama", None) / "tokenizer.json").is_file()
    assert contract.lacking(contract.located("org/llama", None), "") == contract.NO_WEIGHTS


def test_a_model_that_is_cached_whole_needs_no_hub(hub):
    models.resolve("org/llama", None)
    models.resolve("org/neox", None)
    hub.down = True
    hub.asked.clear()
    requirements.check(cells())
    assert hub.asked == []
    assert models.resolve("org/llama", None)["revision"] == hub.models["org/llama"].sha


# ---------------------------------------------------------------------------------------------------------- commits


def init_key(**more):
    return next(cell for cell in cells(**more) if cell.row == "student").plan.init.key


def test_commits_and_not_branches_are_keyed_and_the_first_one_stays(hub, published, tmp_path):
    first = init_key()
    old = hub.models["org/llama"].sha
    assert contract.pins() == {"model org/llama main": old}
    hub.publish("org/llama", published / "neox")
    assert init_key() == first
    contract.pin({})  # another process of this machine: its cache remembers
    assert init_key() == first
    contract.pin({})
    shutil.rmtree(tmp_path / "cache")
    moved = init_key()  # another machine
    assert moved != first
    contract.pin({"model org/llama main": old})  # another machine, with the board
    shutil.rmtree(tmp_path / "cache")
    assert init_key() == first
    assert init_key(student=f"org/llama,revision={old}") == first


def test_the_commit_that_is_keyed_is_the_one_that_is_read(hub, published):
    commit = init_key() and hub.models["org/llama"].sha
    requirements.check(cells())
    assert models.resolve("org/llama", None)["revision"] == commit
    assert not [asked for asked in hub.asked if "/resolve/main/" in asked and "llama" in asked]


def test_a_commit_that_nobody_knows_is_refused(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    models.resolve("org/llama", None)
    (snapshot,) = (tmp_path / "cache" / "models--org--llama" / "snapshots").iterdir()
    shutil.copytree(snapshot, snapshot.with_name("0" * 40))
    contract.pin({})
    (tmp_path / "cache" / "models--org--llama" / "refs" / "main").unlink()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "org/llama" in refused("org/llama")
    contract.pin({"model org/llama main": snapshot.name})
    with pytest.raises(MissingError, match="org/neox"):  # the student can be had, the teacher cannot
        requirements.check(cells())


def test_data_sets_and_reward_models_are_keyed_by_their_commits(hub, published, tmp_path):
    def key(kind, selector):
        contract.pin({})
        shutil.rmtree(tmp_path / "cache", ignore_errors=True)
        return choose(tiny.registry(), kind, selector)[0].public()

    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "train.jsonl").write_text("{}\n")
    hub.publish("org/data", tmp_path / "data")
    for kind, selector, name in (("task", "hub[id=org/data]", "data"), ("metric", "reward[id=org/llama]", "llama")):
        before = key(kind, selector)
        assert before["commit"] == hub.models[f"org/{name}"].sha
        hub.publish(f"org/{name}", published / "neox")
        assert key(kind, selector) != before


def test_a_data_set_whose_commit_nobody_knows_is_refused(hub, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    built = spec.build(tiny.registry(), task="hub[id=org/data]", methods="seqkd", student="tiny")
    with pytest.raises(MissingError, match="cannot resolve the commit of org/data"):
        requirements.check(matrix.cells(built, tiny.registry()))


# --------------------------------------------------------------------------------------------------------- refusals


def test_missing_private_and_gated_models(hub, published, monkeypatch):
    assert "hf[id=org/absent]: model org/absent is not on the hub, or is private" in refused("org/absent")
    hub.publish("org/secret", published / "llama", private=True)
    assert "is not on the hub, or is private\n  Check the name, or run `hf auth login`" in refused("org/secret")
    hub.publish("org/gated", published / "llama", gated=True)
    assert "model org/gated is gated\n  Request access" in refused("org/gated")
    monkeypatch.setenv("HF_TOKEN", hubserver.TOKEN)
    requirements.check(cells("org/secret"))
    assert "model org/absent is not on the hub" in refused("org/absent")
    assert "model org/gated is gated" in refused("org/gated")  # a token that was not granted access
    hub.publish("org/other", published / "llama", forbidden=True)
    assert "model org/other is not accessible with this token" in refused("org/other")


def test_a_revision_that_is_not_there(hub):
    assert "has no revision v9" in refused("org/neox,revision=v9")
    requirements.check(cells("org/neox,revision=v1"))


def test_pickled_weights_are_refused(hub, published):
    repository = hub.publish("org/pickled", published / "llama")
    repository.files["pytorch_model.bin"] = repository.files.pop("model.safetensors")
    assert "has no safetensors file" in refused("org/pickled")
    with pytest.raises(MissingError, match=r"org/pickled has no safetensors file\n.*never loaded"):
        models.resolve("org/pickled", None)
    assert not [asked for asked in hub.asked if "pytorch_model.bin" in asked]


@pytest.mark.parametrize("file", ["config.json", "tokenizer"])
def test_a_repository_without_a_configuration_or_a_tokenizer(hub, published, file):
    repository = hub.publish("org/odd", published / "llama")
    for name in [n for n in repository.files if n.startswith(file)]:
        del repository.files[name]
    assert f"model org/odd has no {file}" in refused("org/odd")


def test_a_tokenizer_without_an_end_token_is_refused_before_any_work(hub, published):
    repository = hub.publish("org/endless", published / "llama")
    settings = json.loads(repository.files["tokenizer_config.json"])
    del settings["eos_token"]
    repository.files["tokenizer_config.json"] = json.dumps(settings).encode()
    assert "tokenizer of hf[id=org/endless]: model org/endless has no end token" in refused("org/endless")


def test_a_hub_that_is_down_or_offline(hub, monkeypatch):
    from huggingface_hub import constants

    hub.down = True
    assert "the hub answered 503" in refused("org/llama")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "not in the local cache, and HF_HUB_OFFLINE is set\n  Unset it" in refused("org/llama")


def test_no_network(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:1")
    assert "the hub cannot be reached (ConnectError)\n  Connect to the network" in refused("org/llama")


# --------------------------------------------------------------------------------------------------- broken downloads


def test_a_download_that_is_cut_goes_on_where_it_stopped(hub):
    hub.cut["model.safetensors"] = 2
    path = contract.located("org/llama", models.resolve("org/llama", None)["revision"])
    assert (path / "model.safetensors").read_bytes() == hub.models["org/llama"].files["model.safetensors"]
    assert sum(asked.startswith("GET /blob/") for asked in hub.asked) == 3


def test_a_download_that_never_ends_leaves_nothing_that_looks_whole(hub, monkeypatch):
    monkeypatch.setattr(
        hubserver.Hub, "_send_file", lambda hub, request, name, data, headers: _promise(request, headers)
    )
    with pytest.raises(MissingError) as caught:
        models.resolve("org/llama", None)
    assert caught.value.exit_code == 3
    monkeypatch.undo()
    assert contract.located("org/llama", None) is None


def _promise(request, headers):
    """Promise ten bytes and send none."""
    request.send_response(200)
    for name, value in {**headers, "Content-Length": "10"}.items():
        request.send_header(name, value)
    request.end_headers()
    request.close_connection = True


def test_a_cache_that_is_half_there_is_completed(hub, tmp_path):
    resolved = models.resolve("org/llama", None)
    weights = contract.located("org/llama", resolved["revision"]) / "model.safetensors"
    weights.resolve().unlink()
    weights.unlink()
    (tmp_path / models.POINTER).write_text(json.dumps(resolved))
    models.load(tmp_path, "cpu", "float32")
    assert weights.is_file()


# --------------------------------------------------------------------------------------------------------- end to end


@pytest.mark.slow
def test_a_run_with_student_and_teacher_of_the_hub(published, tmp_path):
    """The program itself, with HF_ENDPOINT and an empty HF_HOME."""
    with hubserver.serving() as server:
        server.publish("org/llama", published / "llama")
        server.publish("org/neox", published / "neox")
        program = [sys.executable, "-m", "plad_bench", "-p", str(PLUGIN), "run", "--task", "mini"]
        models_ = ["--student", "hf[id=org/llama]", "--teacher", "hf[id=org/neox,steps=0]", "--methods", "seqkd"]
        small = ["--limit", "8", "--steps", "2", "--sft-steps", "2", "--workers", "1", "--board", "mine", "--force"]
        environment = {**os.environ, "HF_ENDPOINT": server.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
        environment |= {
            "PLAD_BENCH_STORE": str(tmp_path / "store"),
            "HF_TOKEN": "",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        }
        made = subprocess.run(
            [*program, *models_, *small], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert made.returncode == 0, made.stderr
        records = {
            (record := json.loads(path.read_text()))["method"]["name"]: record
            for path in (tmp_path / "leaderboards" / "mine" / "cells").rglob("*.json")
        }
        assert set(records) == {"seqkd", "teacher", "student", "sft-init"}
        for row, name in (("seqkd", "org/llama"), ("student", "org/llama"), ("teacher", "org/neox")):
            assert records[row]["provenance"]["notes"]["init"]["revision"] == server.models[name].sha
        assert "teach.empty" in records["seqkd"]["counts"]
        assert server.url not in json.dumps(records)
        # and what fails before any work says so with exit code 3
        made = subprocess.run(
            [*program, "--student", "hf[id=org/none]", *models_[2:], *small],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert (made.returncode, made.stdout) == (3, "")
        assert "model org/none is not on the hub" in made.stderr
        assert "Traceback" not in made.stderr


def test_what_does_not_fit_shows_once_the_small_files_are_here(hub, published):
    other = tiny.tokenizer()
    other.add_tokens(["<extra>"])
    models.save(tiny.llama(seed=2, vocabulary=301), other, published.parent / "other")
    hub.publish("org/other", published.parent / "other")
    planned = {
        cell.row: cell for cell in cells("org/llama", "org/other", methods="kd,seqkd", metrics="rouge-l,fidelity")
    }
    assert {cell.skip for cell in planned.values()} == {""}
    assert planned["seqkd"].absent == {}
    requirements.check(planned.values())
    again = dict(zip(planned, matrix.reconsidered(planned.values(), lambda key: None), strict=True))
    assert "different tokenizers" in again["kd"].skip
    assert again["seqkd"].skip == ""
    assert "different tokenizers" in again["seqkd"].absent["fidelity"]
