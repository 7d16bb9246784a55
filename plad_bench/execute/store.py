"""The content-addressed store: an artifact is a directory named by its key, whole or absent."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract.errors import CorruptArtifactError
from plad_bench.contract.files import unwritable
from plad_bench.plan.stages import digest

MANIFEST = "manifest.json"


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
        return str(self.manifest["document"]["stage"])

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
        """State and logs of runs."""
        return self.root / "runs"

    def prepare(self) -> None:
        """Make the directories.

        Raises:
            MissingError: if the store cannot be written.
        """
        try:
            for name in ("artifacts", "partial", "locks", "runs"):
                (self.root / name).mkdir(parents=True, exist_ok=True)
            probe = self.root / f".probe-{secrets.token_hex(4)}"
            probe.write_bytes(b"x")
            probe.unlink()
        except OSError as error:
            raise unwritable(self.root, error) from error

    # --------------------------------------------------------------------------------------------------- reading

    def find(self, key: str) -> Artifact | None:
        """The artifact of a key, verified; None if there is none. A corrupt one is moved out of the way: None.

        Every byte is compared with the manifest the first time this process meets the artifact.
        """
        for path in (self.place(key), *(root / key[:16] for root in self.shipped)):
            if not (path / MANIFEST).is_file():
                continue
            try:
                return self.open(path, key)
            except CorruptArtifactError:
                if path == self.place(key):
                    self.discard(path)
        return None

    def open(self, path: Path, key: str) -> Artifact:
        """Read and verify an artifact.

        Raises:
            CorruptArtifactError: naming the file that is not what the manifest says.
        """
        try:
            manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
            artifact = Artifact(path, manifest)
            if manifest.get("seal") != seal(manifest) or artifact.key != key:
                raise CorruptArtifactError(f"{path.name}: the manifest was altered", "It will be rebuilt.")
            stamp = (path / MANIFEST).stat().st_mtime_ns
            if self._verified.get(path) != stamp:
                self._verify(artifact)
                self._verified[path] = stamp
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CorruptArtifactError(f"{path.name}: unreadable manifest: {error}", "It will be rebuilt.") from error
        return artifact

    def _verify(self, artifact: Artifact) -> None:
        for name, entry in artifact.manifest["files"].items():
            file = artifact.path / name
            if not file.is_file() or file.stat().st_size != entry["bytes"] or _sha256(file) != entry["sha256"]:
                raise CorruptArtifactError(
                    f"{artifact.path.name}: {name} is missing, truncated or altered", "It will be rebuilt."
                )

    def artifacts(self) -> Iterator[Artifact]:
        """Every artifact with a readable manifest, unverified."""
        for path in self.places():
            try:
                yield Artifact(path, json.loads((path / MANIFEST).read_text(encoding="utf-8")))
            except (OSError, ValueError):
                continue

    def places(self) -> list[Path]:
        """The directory of every artifact, whatever its state; its name is the key."""
        return sorted(p for p in (self.root / "artifacts").glob("*/*") if not p.name.startswith("."))

    # --------------------------------------------------------------------------------------------------- writing

    def stage_directory(self, key: str) -> Path:
        """A fresh directory for the files of an artifact in the making."""
        path = self.root / "artifacts" / key[:2] / f".{key[:16]}-{secrets.token_hex(4)}.tmp"
        path.mkdir(parents=True)
        return path

    def commit(self, staging: Path, document: dict[str, Any], key: str, facts: dict[str, Any]) -> Artifact:
        """Seal a staging directory with its manifest and move it to its place in one step."""
        files = {}
        for file in sorted(p for p in staging.rglob("*") if p.is_file()):
            files[file.relative_to(staging).as_posix()] = {"sha256": _sha256(file), "bytes": file.stat().st_size}
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
                self.discard(place)
                staging.rename(place)
            else:
                shutil.rmtree(staging, ignore_errors=True)
        _sync(place.parent)
        shutil.rmtree(self.partial(key), ignore_errors=True)
        return Artifact(place, manifest)

    def discard(self, path: Path) -> None:
        """Take an artifact out of use; a reader that has it open keeps it."""
        grave = path.with_name(f".{path.name[:16]}-{secrets.token_hex(4)}.dead")
        with contextlib.suppress(FileNotFoundError):  # somebody else did it just now
            path.rename(grave)
        shutil.rmtree(grave, ignore_errors=True)

    def sweep(self, older_than_s: float = 86400) -> None:
        """Remove what killed processes left behind."""
        for path in (self.root / "artifacts").glob("*/.*"):
            try:
                if time.time() - path.stat().st_mtime > older_than_s:
                    shutil.rmtree(path, ignore_errors=True)
            except OSError:
                continue


def seal(manifest: Mapping[str, Any]) -> str:
    """Hash of a manifest without its seal."""
    return digest({name: value for name, value in manifest.items() if name != "seal"})


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
