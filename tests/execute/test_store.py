"""Artifacts are there, whole, or absent."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from plad_bench.contract import files, locks
from plad_bench.contract.errors import CorruptArtifactError, MissingError
from plad_bench.execute.store import MANIFEST, RESPONSE_CACHE, Store
from plad_bench.plan.stage import Stage

STAGE = Stage("sample", "generate", {"split": "train", "seed": 0})
KEY = STAGE.key
FACTS = {"counts": {"empty": 1}, "cost": {"tokens_generated": 7}, "notes": {}, "seconds": 0.5, "provenance": {}}


def made(store, content=b"three\n", key=KEY):
    staging = store.stage_directory(key)
    (staging / "model").mkdir()
    (staging / "responses.jsonl").write_bytes(content)
    (staging / "model" / "weights").write_bytes(bytes(range(256)))
    return staging


def commit(store, **more):
    return store.commit(made(store, **more), STAGE.document, KEY, FACTS)


@pytest.fixture
def store(tmp_path):
    opened = Store(tmp_path / "store")
    opened.prepare()
    return opened


def again(store):
    """The store as another process sees it."""
    return Store(store.root, store.shipped)


def test_an_artifact_is_found_with_all_its_facts(store):
    assert store.find(KEY) is None
    committed = commit(store)
    for opened in (store, again(store)):
        found = opened.find(KEY)
        assert found.path == committed.path == store.place(KEY)
        assert (found.key, found.stage, found.bytes) == (KEY, "sample", 6 + 256)
        assert {name: found.manifest[name] for name in FACTS} == FACTS
        assert found.manifest["document"] == STAGE.document
    assert [a.key for a in store.artifacts()] == [KEY]
    assert sorted(p.name for p in store.place(KEY).parent.iterdir()) == [KEY]


def test_an_artifact_in_the_making_is_not_there(store):
    staging = made(store)
    assert again(store).find(KEY) is None
    assert list(store.artifacts()) == []
    staging.rename(store.place(KEY))  # as if a kill had come between; nothing without a manifest is an artifact
    assert again(store).find(KEY) is None


@pytest.mark.parametrize("moment", ["_sync", "_sha256"])
def test_a_kill_at_any_moment_of_a_commit_leaves_nothing(store, monkeypatch, moment):
    from plad_bench.execute import store as module

    real, calls = getattr(module, moment), []
    total = {"_sync": 3, "_sha256": 2}[moment]
    for last in range(total):
        calls.clear()

        def dies(path, last=last):
            calls.append(path)
            if len(calls) > last:
                raise KeyboardInterrupt
            return real(path)

        monkeypatch.setattr(module, moment, dies)
        with pytest.raises(KeyboardInterrupt):
            commit(store)
        monkeypatch.setattr(module, moment, real)
        assert again(store).find(KEY) is None
    assert commit(store) is not None
    assert again(store).find(KEY) is not None


def flips(file):
    data = file.read_bytes()
    for position in sorted({0, len(data) // 3, len(data) // 2, len(data) - 1}):
        yield data[:position] + bytes([data[position] ^ 1]) + data[position + 1 :]
    yield data[:-1]
    yield data + b"x"
    yield b""


@pytest.mark.parametrize("name", ["responses.jsonl", "model/weights", MANIFEST])
def test_any_damage_is_noticed_and_the_artifact_put_in_quarantine(store, name):
    for number in range(7):
        file = commit(store).path / name
        damaged = list(flips(file))[number]
        file.write_bytes(damaged)
        assert again(store).find(KEY) is None
        assert not store.place(KEY).exists()
        (kept,) = store.quarantined.iterdir()
        assert kept.name.startswith(KEY)
        assert (kept / name).read_bytes() == damaged
        shutil.rmtree(kept)


@pytest.mark.parametrize("name", ["responses.jsonl", "model/weights", MANIFEST])
@pytest.mark.parametrize("code", ["EMFILE", "ENFILE", "EIO", "ESTALE", "EACCES", "ENOMEM", "ETIMEDOUT"])
def test_an_error_while_reading_proves_nothing(store, monkeypatch, name, code):
    commit(store)
    opens, stats = Path.open, Path.stat

    def fails(real):
        def method(self, *args, **more):
            if self.name == Path(name).name:
                raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)), str(self))
            return real(self, *args, **more)

        return method

    for method, real in (("open", opens), ("stat", stats)):
        with monkeypatch.context() as patch:
            patch.setattr(Path, method, fails(real))
            with pytest.raises(MissingError, match="cannot be read") as caught:
                again(store).find(KEY)
        assert ("ulimit" in caught.value.remedy) == (code in {"EMFILE", "ENFILE"})
        assert not store.quarantined.exists()
        assert again(store).find(KEY) is not None


def test_too_many_open_files_in_earnest_cost_no_artifact(store):
    commit(store)
    taken = []
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (200, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        with pytest.raises(MissingError, match="Too many open files"):
            again(store).find(KEY)
    finally:
        for handle in taken:
            os.close(handle)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert again(store).find(KEY) is not None


def test_what_somebody_has_put_in_the_place_of_a_corrupt_artifact_stays(store, monkeypatch):
    (commit(store).path / "responses.jsonl").write_bytes(b"bad")
    reader, other = again(store), again(store)
    real = Store.open

    def slower(self, path, key):
        try:
            return real(self, path, key)
        finally:
            if self is reader:
                assert other.find(key) is None
                commit(other)

    monkeypatch.setattr(Store, "open", slower)
    assert reader.find(KEY) is None
    monkeypatch.undo()
    assert again(store).find(KEY) is not None


def test_what_was_asked_for_is_kept_whatever_becomes_of_the_artifact(store):
    def bought(text):
        store.partial(KEY).mkdir(parents=True)
        (store.partial(KEY) / RESPONSE_CACHE).write_text(text)
        artifact = commit(store)
        assert (artifact.path / RESPONSE_CACHE).read_text() == text
        assert not store.partial(KEY).exists()
        return artifact.path

    (bought("one\n") / "responses.jsonl").write_bytes(b"bad")
    assert again(store).find(KEY) is None
    assert (store.partial(KEY) / RESPONSE_CACHE).read_text() == "one\n"
    shutil.rmtree(store.partial(KEY))
    store.remove(bought("two\n"))
    assert (store.partial(KEY) / RESPONSE_CACHE).read_text() == "two\n"


def test_every_number_of_a_manifest_is_sealed(store):
    for old, new in [
        ('"empty": 1', '"empty": 2'),
        ('"tokens_generated": 7', '"tokens_generated": 8'),
        ('"seed": 0', '"seed": 1'),
    ]:
        file = commit(store).path / MANIFEST
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))
        assert again(store).find(KEY) is None


@pytest.mark.parametrize("name", ["responses.jsonl", MANIFEST])
def test_a_lost_file_is_noticed_and_the_artifact_can_be_made_again(store, name):
    (commit(store).path / name).unlink()
    assert again(store).find(KEY) is None
    commit(again(store))
    assert again(store).find(KEY) is not None


def test_damage_names_the_file(store):
    artifact = commit(store)
    (artifact.path / "model" / "weights").write_bytes(bytes(256))
    with pytest.raises(CorruptArtifactError, match="model/weights is missing, truncated or altered"):
        again(store).open(artifact.path, KEY)


def test_an_artifact_of_another_key_is_not_used(store):
    other = "0" * 64
    (store.root / "artifacts" / "00").mkdir()
    commit(store).path.rename(store.place(other))
    assert again(store).find(other) is None


def test_the_first_of_two_commits_stays(store):
    one, two = made(store), made(store, content=b"other")
    store.commit(one, STAGE.document, KEY, FACTS)
    second = again(store).commit(two, STAGE.document, KEY, {**FACTS, "seconds": 9.0})
    assert (store.place(KEY) / "responses.jsonl").read_bytes() == b"three\n"
    assert second.path == store.place(KEY)
    assert not two.exists()
    assert again(store).find(KEY).manifest["seconds"] == 0.5


def test_many_commits_at_once_leave_one_whole_artifact(store):
    opened = [again(store) for _ in range(8)]
    staged = [made(s, content=bytes([i]) * 100) for i, s in enumerate(opened)]
    start, errors = threading.Barrier(8), []

    def go(own, staging):
        try:
            start.wait()
            own.commit(staging, STAGE.document, KEY, FACTS)
        except OSError as error:
            errors.append(error)

    threads = [threading.Thread(target=go, args=pair) for pair in zip(opened, staged, strict=True)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert errors == []
    assert again(store).find(KEY) is not None
    assert [p.name for p in store.place(KEY).parent.iterdir()] == [KEY]


def test_two_readers_of_a_corrupt_artifact_do_not_trip_over_each_other(store, monkeypatch):
    (commit(store).path / "responses.jsonl").write_bytes(b"bad")
    one, two = again(store), again(store)
    real = Store.quarantine

    def slower(self, path):
        if self is one:
            two.find(KEY)
        real(self, path)

    monkeypatch.setattr(Store, "quarantine", slower)
    assert one.find(KEY) is None


def test_a_file_that_a_library_wrote_for_its_owner_alone_can_be_read_by_those_who_share_the_store(store):
    staging = made(store)
    (staging / "model" / "weights").chmod(0o600)
    place = store.commit(staging, STAGE.document, KEY, FACTS).path
    assert (place / "model" / "weights").stat().st_mode & 0o777 == place.stat().st_mode & 0o666


def test_what_a_stage_kept_to_go_on_is_gone_once_it_is_finished(store):
    store.partial(KEY).mkdir(parents=True)
    (store.partial(KEY) / "checkpoint.pt").write_bytes(b"x")
    commit(store)
    assert not store.partial(KEY).exists()


@pytest.fixture
def shipped(store, tmp_path):
    ready = tmp_path / "ready"
    ready.mkdir()
    commit(store).path.rename(ready / KEY[:16])
    return Store(store.root, [tmp_path / "absent", ready])


def test_a_shipped_artifact_is_found_where_it_lies(shipped, tmp_path):
    assert shipped.find(KEY).path == tmp_path / "ready" / KEY[:16]
    assert Store(shipped.root).find(KEY) is None


def test_what_is_missing_is_what_find_does_not_find(shipped, tmp_path):
    other, own = "0" * 64, Store(shipped.root)
    assert Store(tmp_path / "nowhere").missing([KEY, other]) == own.missing([KEY, other]) == {KEY, other}
    assert shipped.missing([KEY, other]) == {other}
    made(own)
    assert own.missing([KEY, other]) == {KEY, other}
    commit(own)
    assert own.missing([KEY, other]) == {other}
    (own.place(KEY) / "responses.jsonl").write_bytes(b"other\n")
    assert again(own).missing([KEY, other]) == {KEY, other}


def test_a_store_that_cannot_be_listed_is_not_taken_for_an_empty_one(store, monkeypatch):
    def refused(path):
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refused)
    with pytest.raises(MissingError, match="Permission denied"):
        store.missing([KEY])


def test_a_shipped_artifact_is_never_deleted(shipped, tmp_path):
    lies = tmp_path / "ready" / KEY[:16]
    (lies / "responses.jsonl").write_bytes(b"damaged")
    assert again(shipped).find(KEY) is None
    assert (lies / "responses.jsonl").read_bytes() == b"damaged"
    commit(shipped)
    assert again(shipped).find(KEY).path == shipped.place(KEY)
    assert lies.is_dir()


def test_one_of_ones_own_comes_before_a_shipped_one(shipped):
    commit(Store(shipped.root))
    assert again(shipped).find(KEY).path == shipped.place(KEY)


def test_sweeping_removes_what_is_dead_and_nothing_that_lives_however_old(store):
    commit(store)
    staging = made(store)
    os.utime(staging, (0, 0))
    with locks.held(store.lock(KEY)):
        store.sweep()
        assert staging.exists()
    store.sweep()
    assert not staging.exists()
    assert again(store).find(KEY) is not None


def test_what_a_stage_kept_goes_if_a_kill_came_right_after_it_was_finished(store):
    commit(store)
    other = "0" * 64
    for key in (KEY, other):
        store.partial(key).mkdir()
        (store.partial(key) / "checkpoint.pt").write_bytes(b"x")
    again(store).prepare()
    assert [path.name for path in store.partials()] == [other]


def test_whoever_makes_an_artifact_removes_what_killed_makers_left(store):
    dead, other = made(store), store.stage_directory(KEY[:2] + "0" * 62)
    store.forget_attempts(KEY)
    assert (dead.exists(), other.exists()) == (False, True)


# -------------------------------------------------------------------------------------------------------------- locks


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    path = tmp_path / "lock"
    assert not locks.is_held(path)
    with locks.held(path) as mine:
        assert mine
        assert locks.is_held(path)
        with locks.held(path, wait=False) as other:
            assert not other
    assert list(tmp_path.iterdir()) == []
    path.touch()  # as a killed holder leaves it
    assert not locks.is_held(path)
    with locks.held(path, wait=False) as mine:
        assert mine


def test_those_who_wait_for_a_lock_get_it_one_by_one(tmp_path):
    inside, most = [], []

    def work():
        for _ in range(50):
            with locks.held(tmp_path / "lock"):
                inside.append(1)
                most.append(len(inside))
                inside.pop()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(most), max(most)) == (400, 1)
    assert list(tmp_path.iterdir()) == []


def test_a_killed_holder_holds_nothing(tmp_path):
    code = (
        "import sys, time\nfrom pathlib import Path\nfrom plad_bench.contract import locks\n"
        "with locks.held(Path(sys.argv[1])):\n    print('held', flush=True)\n    time.sleep(600)"
    )
    path = tmp_path / "lock"
    with subprocess.Popen([sys.executable, "-c", code, path], stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout.readline() == "held\n"
        assert locks.is_held(path)
        holder.kill()
    assert path.exists()
    assert not locks.is_held(path)
    with locks.held(path) as mine:
        assert mine


def test_a_file_system_without_locks_is_refused(tmp_path, monkeypatch):
    def flock(handle, how):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(MissingError, match="does not support file locks"), locks.held(tmp_path / "lock"):
        pass


def test_many_writers_of_one_file_leave_one_whole_file(tmp_path):
    path = tmp_path / "record.json"
    (tmp_path / ".record.json.tmp").write_text("what a killed writer left" * 1000)
    texts = [bytes([65 + number]) * 10000 for number in range(8)]
    threads = [threading.Thread(target=files.write_atomically, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() in texts
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_store_that_cannot_be_written_says_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(MissingError, match="cannot write") as caught:
        Store(tmp_path / "file" / "store").prepare()
    assert "--store" in caught.value.remedy


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_store_says_so(store):
    store.root.chmod(0o500)
    try:
        with pytest.raises(MissingError, match="cannot write"):
            store.prepare()
    finally:
        store.root.chmod(0o700)


def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch):
    path = tmp_path / "record.json"
    files.write_atomically(path, b"before")

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(MissingError, match="No space left") as caught:
        files.write_atomically(path, b"after")
    assert caught.value.remedy.startswith("Free some space")
    assert path.read_bytes() == b"before"
    assert [p.name for p in tmp_path.iterdir()] == ["record.json"]


def test_a_manifest_reads_as_json(store):
    manifest = json.loads((commit(store).path / MANIFEST).read_text())
    assert manifest["key"] == KEY
    assert set(manifest["files"]) == {"responses.jsonl", "model/weights"}
