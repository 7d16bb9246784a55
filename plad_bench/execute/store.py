"""The content-addressed store: an artifact is a directory named by its key, complete or absent.

Only a proven mismatch with its manifest moves an artifact to quarantine. An error while reading proves nothing.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract import locks
from plad_bench.contract.errors import CorruptArtifactError, MissingError
from plad_bench.contract.files import unreadable, unwritable
from plad_bench.plan.stage import digest, stage_name

MANIFEST = "manifest.json"
RESPONSE_CACHE = "answers.jsonl"
"""The response cache: one line per request to an endpoint. Its responses may have cost money."""


@dataclass(frozen=True)
class Artifact:
    """The output of a finished stage."""

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
        """Whether it ships with a task: only a directory of the store is named by the whole key."""
        return self.path.name != self.key

    @property
    def facts(self) -> dict[str, dict[str, Any]]:
        """Counts, cost, notes, seconds and failed attempts of this artifact and of all its ancestors, by key.

        The manifest holds them, so that a record can describe ancestors that were deleted.
        """
        names = ("counts", "cost", "notes", "seconds", "attempts")
        own = {name: self.manifest[name] for name in names if name in self.manifest}
        return {**self.manifest.get("before", {}), self.key: own}

    @property
    def bytes(self) -> int:
        """Total size of its files in bytes."""
        return sum(entry["bytes"] for entry in self.manifest["files"].values())


@dataclass
class Store:
    """A directory of artifacts, plus read-only directories of artifacts that ship with tasks."""

    root: Path
    shipped: Sequence[Path] = ()
    _verified: dict[Path, int] = field(default_factory=dict)

    # ---------------------------------------------------------------------------------------------------- layout

    def place(self, key: str) -> Path:
        """The directory of the artifact with this key."""
        return self.root / "artifacts" / key[:2] / key

    def partial(self, key: str) -> Path:
        """The directory of a stage's files that survive a kill; deleted when the stage is finished."""
        return self.root / "partial" / key

    def lock(self, key: str) -> Path:
        """The lock file that a worker holds while it makes the artifact."""
        return self.root / "locks" / f"{key}.lock"

    @property
    def runs(self) -> Path:
        """State and logs of runs; those of old runs are deleted."""
        return self.root / "runs"

    @property
    def spent(self) -> Path:
        """Spending of runs with a budget, one file each, never deleted."""
        return self.root / "spent"

    @property
    def quarantined(self) -> Path:
        """Artifacts that differ from their manifests."""
        return self.root / "quarantine"

    def prepare(self) -> None:
        """Create the directories, and remove files that killed processes left.

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
        """The artifact of a key, verified; None if there is none, or a corrupt one, which goes to quarantine.

        The first time a process reads an artifact, every byte is compared with the manifest.

        Raises:
            MissingError: if it cannot be read, which does not mean that it is corrupt.
        """
        for path in (self.place(key), *(root / key[:16] for root in self.shipped)):
            met = _stat(path)
            if met is None or _stat(path / MANIFEST) is None:
                continue
            try:
                return self.open(path, key)
            except CorruptArtifactError:
                # If another process replaced it meanwhile, the new directory is not proven corrupt.
                if path == self.place(key) and (now := _stat(path)) and os.path.samestat(met, now):
                    self.quarantine(path)
        return None

    def missing(self, keys: Iterable[str]) -> set[str]:
        """Those of the keys that have no artifact, as `find`, which is asked for those alone that name a directory."""
        named = {place.name for root in (*_inside(self.root / "artifacts"), *self.shipped) for place in _inside(root)}
        return {key for key in keys if named.isdisjoint((key, key[:16])) or self.find(key) is None}

    def open(self, path: Path, key: str) -> Artifact:
        """Read and verify an artifact.

        Raises:
            CorruptArtifactError: naming the file that differs from the manifest.
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
        """Every artifact with a valid manifest; files are not verified. Errors as `find`."""
        for path in self.places():
            try:
                yield Artifact(path, json.loads((path / MANIFEST).read_bytes()))
            except (FileNotFoundError, NotADirectoryError, ValueError):
                continue
            except OSError as error:
                raise _unread(path / MANIFEST, error) from error

    def places(self) -> list[Path]:
        """The directory of every artifact, in any state, named by its key."""
        return sorted(p for p in (self.root / "artifacts").glob("*/*") if not p.name.startswith("."))

    def partials(self) -> list[Path]:
        """The directories of unfinished stages, named by their keys."""
        return sorted((self.root / "partial").glob("*"))

    # --------------------------------------------------------------------------------------------------- writing

    def stage_directory(self, key: str) -> Path:
        """A new directory for an artifact's files."""
        path = self.root / "artifacts" / key[:2] / f".{key[:16]}-{secrets.token_hex(4)}.tmp"
        path.mkdir(parents=True)
        return path

    def commit(self, staging: Path, document: dict[str, Any], key: str, facts: dict[str, Any]) -> Artifact:
        """Seal a staging directory with its manifest and move it into place in one step."""
        if (response_cache := self.partial(key) / RESPONSE_CACHE).is_file():
            shutil.copyfile(response_cache, staging / RESPONSE_CACHE)
        readable = staging.stat().st_mode & 0o666  # as the umask says: some libraries write for the owner alone
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
        except OSError:  # another run was faster, or a corrupt artifact is in the way
            if self.find(key) is None:
                self.quarantine(place)
                staging.rename(place)
            else:
                shutil.rmtree(staging, ignore_errors=True)
        _sync(place.parent)
        shutil.rmtree(self.partial(key), ignore_errors=True)
        return Artifact(place, manifest)

    def quarantine(self, path: Path) -> None:
        """Move a corrupt artifact to quarantine. Processes that have it open can still read it."""
        self._take_away(path, self.quarantined / f"{path.name}-{secrets.token_hex(4)}")

    def remove(self, path: Path) -> None:
        """Delete an artifact. Processes that have its files open can still read them."""
        grave = path.with_name(f".{path.name[:16]}-{secrets.token_hex(4)}.dead")
        self._take_away(path, grave)
        shutil.rmtree(grave, ignore_errors=True)

    def _take_away(self, path: Path, grave: Path) -> None:
        """Move an artifact, but keep its response cache, so that no request is sent, or paid, twice."""
        try:
            if (path / RESPONSE_CACHE).is_file():
                self.partial(path.name).mkdir(parents=True, exist_ok=True)
                with (self.partial(path.name) / RESPONSE_CACHE).open("ab") as response_cache:
                    response_cache.write(
                        (b"\n" if response_cache.tell() else b"") + (path / RESPONSE_CACHE).read_bytes()
                    )
            grave.parent.mkdir(parents=True, exist_ok=True)
            path.rename(grave)
        except FileNotFoundError:  # another process just moved it
            return
        except OSError as error:
            raise unwritable(path, error) from error

    def sweep(self) -> None:
        """Remove files that killed processes left. Artifacts in progress are locked, and stay."""
        for path in (self.root / "artifacts").glob("*/.*"):
            if path.suffix == ".dead":
                shutil.rmtree(path, ignore_errors=True)
                continue
            key = path.name[1:17]
            if not any(locks.is_held(lock) for lock in (self.root / "locks").glob(f"{key}*.lock")):
                shutil.rmtree(path, ignore_errors=True)
        for path in self.partials():
            self.sweep_partial(path.name)

    def sweep_partial(self, key: str) -> None:
        """Remove the partial files of a finished stage, whose worker was killed right after it had finished."""
        if self.partial(key).is_dir() and self.place(key).is_dir():
            with locks.held(self.lock(key), wait=False) as mine:
                if mine and self.find(key) is not None:
                    shutil.rmtree(self.partial(key), ignore_errors=True)

    def forget_attempts(self, key: str) -> None:
        """Remove staging directories that killed workers left for this key. The caller holds its lock."""
        for path in self.place(key).parent.glob(f".{key[:16]}-*.tmp"):
            shutil.rmtree(path, ignore_errors=True)


def directory_bytes(path: Path) -> int:
    """Total size of the files below a directory in bytes."""
    return sum(found.st_size for file in path.rglob("*") if (found := _stat(file)) and stat.S_ISREG(found.st_mode))


def seal(manifest: Mapping[str, Any]) -> str:
    """Hash of a manifest without its own hash."""
    return digest({name: value for name, value in manifest.items() if name != "seal"})


def _stat(path: Path) -> os.stat_result | None:
    """The status of a file; None if it does not exist. Other errors leave that open, and are raised."""
    try:
        return path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise _unread(path, error) from error


def _inside(directory: Path) -> list[Path]:
    """The entries of a directory; none if there is no such directory. Other errors are raised."""
    try:
        return [*directory.iterdir()]
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise _unread(directory, error) from error


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
