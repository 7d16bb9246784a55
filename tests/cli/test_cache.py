"""`cache`: what takes space is counted, and pruning removes what is of no more use and nothing else."""

from __future__ import annotations

import json
import os
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract import locks
from plad_bench.contract.errors import MissingError
from plad_bench.execute.store import MANIFEST, RESPONSE_CACHE, Store
from plad_bench.plan.stage import Stage

FACTS = {"counts": {}, "cost": {}, "notes": {}, "seconds": 0.0, "provenance": {}}


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    opened.prepare()
    return opened


def commit(store, seed, operation="train"):
    stage = Stage("distill", operation, {"seed": seed})
    staging = store.stage_directory(stage.key)
    (staging / "weights").write_bytes(bytes(1000))
    return store.commit(staging, stage.document, stage.key, FACTS)


def unfinished(store, seed, name="checkpoint.pt", age_days=0.0):
    """What a killed stage leaves behind: its key."""
    key = Stage("distill", "train", {"seed": seed}).key
    store.partial(key).mkdir(parents=True, exist_ok=True)
    (store.partial(key) / name).write_bytes(bytes(500))
    for path in (store.partial(key) / name, store.partial(key)):
        os.utime(path, (path.stat().st_mtime - 86400 * age_days,) * 2)
    return key


def cache(store, *command):
    done = CliRunner().invoke(
        cli, ["cache", *command, "--store", str(store.root), "--json"], standalone_mode=False, catch_exceptions=True
    )
    if done.exception:
        raise done.exception
    return json.loads(done.stdout)


def prune(store, *options):
    return cache(store, "prune", "--boards-dir", str(store.root.parent / "boards"), *options)


def test_du_counts_all_that_takes_space(store):
    commit(store, 0)
    unfinished(store, 1)
    unfinished(store, 2)
    (commit(store, 3).path / "weights").write_bytes(b"damaged")
    assert Store(store.root).find(Stage("distill", "train", {"seed": 3}).key) is None
    found = cache(store, "du")
    assert found["distill"] == {"bytes": 1000, "artifacts": 1}
    assert found["unfinished"] == {"bytes": 1000, "artifacts": 2}
    assert found["quarantine"]["artifacts"] == 1
    assert found["quarantine"]["bytes"] > 7


def test_prune_removes_what_nobody_will_go_on_from(store):
    old, new = unfinished(store, 0, age_days=40), unfinished(store, 1, age_days=5)
    bought, lives = unfinished(store, 2, RESPONSE_CACHE, age_days=40), unfinished(store, 3, age_days=40)
    done = commit(store, 4).key
    unfinished(store, 4)  # as if a kill had come right after the artifact was in place
    with locks.held(store.lock(lives)):
        assert sorted(prune(store, "--dry-run")["unfinished"]) == sorted([old, done, lives])
        assert all(store.partial(key).is_dir() for key in (old, new, bought, lives, done))
        prune(store)
    assert [store.partial(key).is_dir() for key in (old, new, bought, lives, done)] == [False, True, True, True, False]
    assert Store(store.root).find(done) is not None


def test_prune_empties_the_quarantine_at_the_same_age(store):
    (commit(store, 0).path / "weights").write_bytes(b"damaged")
    assert Store(store.root).find(Stage("distill", "train", {"seed": 0}).key) is None
    assert prune(store)["quarantine"] == []
    (kept,) = store.quarantined.iterdir()
    os.utime(kept, (0, 0))
    assert prune(store)["quarantine"] == [kept.name]
    assert not kept.exists()


@pytest.mark.parametrize("damaged", ["record", "manifest"])
def test_prune_removes_nothing_while_it_is_not_known_what_records_rest_on(store, monkeypatch, damaged):
    other, artifact = commit(store, 0), commit(store, 1)
    record = store.root.parent / "boards" / "mine" / "cells" / "cell.json"
    record.parent.mkdir(parents=True)
    record.write_text("{")
    if damaged == "manifest":
        monkeypatch.setattr("plad_bench.records.storage.read", lambda path: SimpleNamespace(key=artifact.key))
        (artifact.path / MANIFEST).write_text("{")
    with pytest.raises(MissingError, match="nothing was removed"):
        prune(store, "--days", "0")
    assert other.path.is_dir()
    record.unlink()
    assert other.key in prune(store, "--days", "0")["removed"]
