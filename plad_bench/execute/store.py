"""The content-addressed store: an artifact is a directory named by its key, whole or absent.

Only a proven mismatch with its manifest takes an artifact out of use, into quarantine; an error while it is read proves
nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract import locks
from plad_bench.contract.errors import CorruptArtifactError, MissingError
from plad_bench.contract.files import unreadable, unwritable
from plad_bench.plan.stages import digest, stage_name

MANIFEST = "manifest.json"
RESPONSE_CACHE = "answers.jsonl"
"""What endpoints were asked and answered, a line for each request; it may have been paid for."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage."""

    path: Path
    manifest: dict[str, Any]

    @property
    def key(self) -> str:
        """The stage's key."""
        return str(self.manifest["key"])

    @property
    def stage(self) -> str:
        """The stage's name."""
        return stage_name(self.manifest["document"])

    @property
    def shipped(self) -> bool:
        """Whether it came with a task: in the store, a directory has the whole key for its name."""
        return self.path.name != self.key

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """What is known of this artifact and of all that it was made from, by key: counts, cost, notes and seconds.

        It lies in the manifest, so that a record can tell of what is gone by then.
        """
        own = {name: self.manifest[name] for name in ("counts", "cost", "notes", "seconds") if name in self.manifest}
        return {**self.manifest.get("before", {}), self.key: own}

    @property
    def bytes(self) -> int:
        """Size of its files."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


@dataclass
class Store:
    """A directory of artifacts, and directories of ready-made ones that ship with tasks (only read)."""

    root: Path
    shipped: Sequence[Path] = ()
    _verified: dict[Path, int] = field(default_factory=dict)

    # ---------------------------------------------------------------------------------------------------- layout

    def place(self, key: str) -> Path:
        """Where the artifact of a key belongs."""
        return self.root / "artifacts" / key[:2] / key

    def partial(self, key: str) -> Path:
        """Where a stage keeps what it needs to go on after being killed; gone once it is finished."""
        return self.root / "partial" / key

    def lock(self, key: str) -> Path:
        """The lock file that one worker at a time holds while it makes an artifact."""
        return self.root / "locks" / f"{key}.lock"

    @property
    def runs(self) -> Path:
        """State and logs of runs; the old ones are forgotten."""
        return self.root / "runs"

    @property
    def spent(self) -> Path:
        """What runs with a limit have spent, a file for each; none is ever removed."""
        return self.root / "spent"

    @property
    def quarantined(self) -> Path:
        """Artifacts that are not what their manifests say."""
        return self.root / "quarantine"

    def prepare(self) -> None:
        """Make the directories, and tidy up after processes that were killed.

        Raises:
            MissingError: if the store cannot be written.
        """
        try:
            for name in ("artifacts", "partial", "locks", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.write_bytes(b"x")
            probe.unlink()
            self.sweep()
        except OSError as error:
            raise unwritable(self.root, error) from error

    # --------------------------------------------------------------------------------------------------- reading

    def find(self, key: str) -> Artifact | None:
        """The artifact of a key, verified; None if there is none. One that is proven corrupt goes to quarantine: None.

        Every byte is compared with the manifest the first time this process meets the artifact.

        Raises:
            MissingError: if it cannot be read, which says nothing of what is in it.
        """
        for path in (self.place(key), *(root / key[:16] for root in self.shipped)):
            met = _stat(path)
            if met is None or _stat(path / MANIFEST) is None:
                continue
            try:
                return self.open(path, key)
            except CorruptArtifactError:
                # What somebody has put in its place meanwhile is another directory, and not proven anything.
                if path == self.place(key) and (now := _stat(path)) and os.path.samestat(met, now):
                    self.quarantine(path)
        return None

    def open(self, path: Path, key: str) -> Artifact:
        """Read and verify an artifact.

        Raises:
            CorruptArtifactError: naming the file that is not what the manifest says.
            MissingError: if a file cannot be read.
        """
        try:
            text = (path / MANIFEST).read_bytes()
            stamp = (path / MANIFEST).stat().st_mtime_ns
        except (FileNotFoundError, NotADirectoryError):
            raise CorruptArtifactError(f"{path.name}: the manifest is missing", "It will be rebuilt.") from None
        except OSError as error:
            raise _unread(path / MANIFEST, error) from error
        try:
            manifest = json.loads(text)
            artifact = Artifact(path, manifest)
            if manifest.get("seal") != seal(manifest) or artifact.key != key:
                raise CorruptArtifactError(f"{path.name}: the manifest was altered", "It will be rebuilt.")
            if self._verified.get(path) != stamp:
                self._verify(artifact)
                self._verified[path] = stamp
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptArtifactError(f"{path.name}: unreadable manifest: {error}", "It will be rebuilt.") from error
        return artifact

    def _verify(self, artifact: Artifact) -> None:
        for name, entry in artifact.manifest["files"].items():
            file = artifact.path / name
            found = _stat(file)
            try:
                if found is not None and found.st_size == entry["bytes"] and _sha256(file) == entry["sha256"]:
                    continue
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                pass
            except OSError as error:
                raise _unread(file, error) from error
            raise CorruptArtifactError(
                f"{artifact.path.name}: {name} is missing, truncated or altered", "It will be rebuilt."
            )

    def artifacts(self) -> Iterator[Artifact]:
        """Every artifact with a whole manifest; its files are not verified. Errors as `find`."""
        for path in self.places():
            try:
                yield Artifact(path, json.loads((path / MANIFEST).read_bytes()))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            except OSError as error:
                raise _unread(path / MANIFEST, error) from error

    def places(self) -> list[Path]:
        """The directory of every artifact, whatever its state; its name is the key."""
        return sorted(p for p in (self.root / "artifacts").glob("*/*") if not p.name.startswith("."))

    def partials(self) -> list[Path]:
        """What unfinished stages keep; the name of each directory is the stage's key."""
        return sorted((self.root / "partial").glob("*"))

    # --------------------------------------------------------------------------------------------------- writing

    def stage_directory(self, key: str) -> Path:
        """A fresh directory for the files of an artifact in the making."""
        path = self.root / "artifacts" / key[:2] / f".{key[:16]}-{secrets.token_hex(4)}.tmp"
        path.mkdir(parents=True)
        return path

    def commit(self, staging: Path, document: dict[str, Any], key: str, facts: dict[str, Any]) -> Artifact:
        """Seal a staging directory with its manifest and move it to its place in one step."""
        if (response_cache := self.partial(key) / RESPONSE_CACHE).is_file():
            shutil.copyfile(response_cache, staging / RESPONSE_CACHE)
        readable = staging.stat().st_mode & 0o666  # as the umask has it: some libraries write for their owner alone
        files = {}
        for file in sorted(p for p in staging.rglob("*") if p.is_file()):
            files[file.relative_to(staging).as_posix()] = {"sha256": _sha256(file), "bytes": file.stat().st_size}
            file.chmod(readable)
            _sync(file)
        manifest = {"key": key, "document": document, "files": files, **facts}
        manifest["seal"] = seal(manifest)
        text = json.dumps(manifest, indent=1, sort_keys=True, allow_nan=False)
        (staging / MANIFEST).write_text(text, encoding="utf-8")
        _sync(staging / MANIFEST)
        place = self.place(key)
        try:
            staging.rename(place)
        except OSError:  # another run was first, or a corrupt artifact is in the way
            if self.find(key) is None:
                self.quarantine(place)
                staging.rename(place)
            else:
                shutil.rmtree(staging, ignore_errors=True)
        _sync(place.parent)
        shutil.rmtree(self.partial(key), ignore_errors=True)
        return Artifact(place, manifest)

    def quarantine(self, path: Path) -> None:
        """Take an artifact that is not what it should be out of use; a reader that has it open keeps it."""
        self._take_away(path, self.quarantined / f"{path.name}-{secrets.token_hex(4)}")

    def remove(self, path: Path) -> None:
        """Delete an artifact; a reader that has a file of it open keeps that."""
        grave = path.with_name(f".{path.name[:16]}-{secrets.token_hex(4)}.dead")
        self._take_away(path, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _take_away(self, path: Path, grave: Path) -> None:
        """Move an artifact, but keep what was asked and answered for it, so that nobody asks, and pays, again."""
        try:
            if (path / RESPONSE_CACHE).is_file():
                self.partial(path.name).mkdir(parents=True, exist_ok=True)
                with (self.partial(path.name) / RESPONSE_CACHE).open("ab") as response_cache:
                    response_cache.write(
                        (b"\n" if response_cache.tell() else b"") + (path / RESPONSE_CACHE).read_bytes()
                    )
            grave.parent.mkdir(parents=True, exist_ok=True)
            path.rename(grave)
        except FileNotFoundError:  # somebody else did it just now
            return
        except OSError as error:
            raise unwritable(path, error) from error

    def sweep(self) -> None:
        """Remove what killed processes left behind. Whoever makes an artifact holds its lock, and loses nothing."""
        for path in (self.root / "artifacts").glob("*/.*"):
            if path.suffix == ".dead":
                shutil.rmtree(path, ignore_errors=True)
                continue
            key = path.name[1:17]
            if not any(locks.is_held(lock) for lock in (self.root / "locks").glob(f"{key}*.lock")):
                shutil.rmtree(path, ignore_errors=True)
        for path in self.partials():
            if self.place(path.name).is_dir():  # the kill came right after it was finished
                with locks.held(self.lock(path.name), wait=False) as mine:
                    if mine and self.find(path.name) is not None:
                        shutil.rmtree(path, ignore_errors=True)

    def forget_attempts(self, key: str) -> None:
        """Remove what killed makers of an artifact left in the making; for whoever holds its lock."""
        for path in self.place(key).parent.glob(f".{key[:16]}-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def directory_bytes(path: Path) -> int:
    """The size of all files in a directory."""
    return sum(found.st_size for file in path.rglob("*") if (found := _stat(file)) and stat.S_ISREG(found.st_mode))


def seal(manifest: Mapping[str, Any]) -> str:
    """Hash of a manifest without its seal."""
    return digest({name: value for name, value in manifest.items() if name != "seal"})


def _stat(path: Path) -> os.stat_result | None:
    """What the system says of a file; None if it is not there, which any other error leaves open."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: OSError) -> MissingError:
    return unreadable(f"{path.name} of the artifact {path.parent.name[:12]}", error)


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
