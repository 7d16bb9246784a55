"""Access to the Hugging Face hub: cached files of models, pinned commits, and errors."""

from __future__ import annotations

import contextlib
import errno
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from plad_bench.contract import gguf
from plad_bench.contract.errors import MissingError
from plad_bench.contract.files import unreadable, write_atomically

DESCRIBING = (
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)
"""Small files that describe a model; they are downloaded before its weights."""
NO_WEIGHTS = ("model.safetensors",)
"""The missing files of a model without safetensors."""


_commits: dict[str, str | None] = {}
"""Resolved branches and tags of this process: "model org/name main" -> commit, None if unresolvable."""


def pin(commits: Mapping[str, str]) -> None:
    """Pin branches and tags to commits, and forget all others."""
    _commits.clear()
    _commits.update(commits)


def pins() -> dict[str, str]:
    """The commits of branches and tags so far, in the format of `pin`."""
    return {name: found for name, found in _commits.items() if found is not None}


def pinned(id_: str, revision: str | None, kind: str = "model") -> str | None:
    """The commit of a revision if it is resolved, otherwise the revision."""
    return _commits.get(_name(id_, revision, kind)) or revision


def commit(id_: str, revision: str | None, kind: str = "model") -> str | None:
    """Resolve and pin the commit of a revision of a "model" or "dataset"; None if it cannot be resolved.

    Without a pin, the commit comes from the local cache, or else from the hub.
    """
    name = _name(id_, revision, kind)
    if name not in _commits:
        _commits[name] = revision if re.fullmatch("[0-9a-f]{40}", revision or "") else _resolved(id_, revision, kind)
    return _commits[name]


def _name(id_: str, revision: str | None, kind: str) -> str:
    return f"{kind} {id_} {revision or 'main'}"


def _resolved(id_: str, revision: str | None, kind: str) -> str | None:
    from huggingface_hub import HfApi, constants

    cached = Path(constants.HF_HUB_CACHE) / f"{kind}s--{id_.replace('/', '--')}"
    reference = cached / "refs" / (revision or "main")
    if reference.is_file():
        return reference.read_text().strip()
    try:
        found = HfApi().repo_info(id_, revision=revision, repo_type=kind, timeout=10).sha
    except Exception:  # noqa: BLE001  `asking` reports it when the files are looked up
        here = [path.name for path in (cached / "snapshots").glob("*")] if constants.HF_HUB_OFFLINE else []
        return here[0] if len(here) == 1 and revision is None else None
    if found:
        with contextlib.suppress(MissingError):  # as the client does, so that the next look-up works offline
            write_atomically(reference, found.encode())
    return found


def unknown(what: str, id_: str) -> MissingError:
    """The error for a revision that cannot be resolved, because results of different commits could be confused."""
    return MissingError(
        f"{what}: cannot resolve the commit of {id_}",
        "Connect to the hub once, give a commit (revision=), or give local files (path=).",
    )


def located(model: str, revision: str | None) -> Path | None:
    """The place of a model on this machine, or None: its directory, there or in the hub's cache, or its GGUF file."""
    if Path(model).is_dir() or gguf.is_gguf(model):
        return Path(model)
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(model, "config.json", revision=pinned(model, revision))
    return Path(config).parent if isinstance(config, str) else None


def chat_template(directory: Path, what: str) -> str:
    """The chat template of a model directory, of several the default one; empty if it has none.

    Raises:
        MissingError: if its settings cannot be read; the message begins with `what`.
    """
    file = directory / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8", errors="replace")
    listed = settings(directory / "tokenizer_config.json", what).get("chat_template") or ""
    if isinstance(listed, list):
        named = {one.get("name"): one.get("template") for one in listed if isinstance(one, dict)}
        listed = named.get("default") or next(iter(named.values()), "")
    return str(listed)


def settings(file: Path, what: str) -> dict[str, Any]:
    """Read a JSON file of a model; empty if it does not exist or does not contain an object.

    Raises:
        MissingError: if it cannot be read; the message begins with `what`.
    """
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise MissingError(f"{what}: {file.name} cannot be read: {error}", "Fix it or download it again.") from None
    return value if isinstance(value, dict) else {}


def lacking(directory: Path, what: str) -> tuple[str, ...]:
    """The weight files that are missing from a directory; `NO_WEIGHTS` if it has none at all.

    Raises:
        MissingError: if the index of weight files cannot be read.
    """
    if not any(directory.glob("*.safetensors")):
        return NO_WEIGHTS
    shards = settings(directory / "model.safetensors.index.json", what).get("weight_map") or {}
    names = sorted({str(name) for name in shards.values()}) if isinstance(shards, dict) else []
    return tuple(name for name in names if not (directory / name).is_file())


def check_weights(directory: Path, what: str) -> None:
    """Check that a directory contains all weights of a model.

    Raises:
        MissingError: if a file is missing, incomplete, unreadable, or not a safetensors file.
    """
    if files := lacking(directory, what):
        raise incomplete(what, files)
    for file in sorted(directory.glob("*.safetensors")):
        try:
            whole = _is_whole(file)
        except OSError as error:
            raise unreadable(f"{what}: {file.name}", error) from error
        if not whole:
            raise MissingError(
                f"{what}: {file.name} is incomplete or not a safetensors file",
                "Copy or download it again; in a git clone, run `git lfs pull`.",
            )


def _is_whole(file: Path) -> bool:
    """Whether a safetensors file is as long as its header says."""
    with file.open("rb") as stream:
        size = int.from_bytes(stream.read(8), "little")
        if not 0 < size <= file.stat().st_size - 8:
            return False
        try:
            header = json.loads(stream.read(size))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return False
    return 8 + size + max(ends, default=0) == file.stat().st_size


def incomplete(what: str, files: tuple[str, ...]) -> MissingError:
    """The error for a model with missing weight files."""
    if files == NO_WEIGHTS:
        remedy = "Convert it, or choose a revision with safetensors; pickled weights are never loaded."
        return MissingError(f"{what} has no safetensors file", remedy)
    return MissingError(
        f"{what}: {files[0]} is missing, one of {len(files)} files listed in its index", "Copy or download it again."
    )


def no_end_token(what: str) -> MissingError:
    """The error for a tokenizer without an end token."""
    return MissingError(f"the tokenizer of {what} has no end token", "Set eos_token in its tokenizer_config.json.")


def no_template(what: str) -> MissingError:
    """The error for a missing chat template."""
    return MissingError(
        f"{what} has no chat template", "Give a Jinja template with template_file=FILE, or leave template= out."
    )


def end_token_beyond(what: str, token: str, number: int, rows: int) -> MissingError:
    """The error for an end token without an embedding."""
    return MissingError(
        f"the end token {token!r} of {what} has id {number}, but the model has embeddings for {rows} tokens",
        "Use the tokenizer that belongs to the model, or resize the model's embeddings.",
    )


@contextmanager
def asking(what: str, id_: str, revision: str | None, instead: str = "'hf[path=DIR]'") -> Iterator[None]:
    """Turn errors of the hub into a MissingError; `what` begins its message, `instead` is an offline source."""
    try:
        yield
    except Exception as error:
        raise _unavailable(what, id_, revision, instead, error) from error


def _unavailable(what: str, id_: str, revision: str | None, instead: str, error: Exception) -> MissingError:
    from huggingface_hub import is_offline_mode
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    answers = (
        (GatedRepoError, 0, "is gated", "Request access on its page, then run `hf auth login` (or set HF_TOKEN)."),
        (RepositoryNotFoundError, 401, "is not on the hub, or is private", "Check the name, or run `hf auth login`."),
        (RevisionNotFoundError, 0, f"has no revision {revision or 'main'}", "Check the revision."),
        (
            (),
            403,
            "is not accessible with this token",
            "Check the token's permissions on the hub, or run `hf auth login`.",
        ),
    )
    cause = error.__cause__
    known = next((e for e in (error, cause) if isinstance(e, HfHubHTTPError)), None)
    status = known.response.status_code if known else 0
    for kind, code, reason, remedy in answers:
        if known is not None and (isinstance(known, kind) or status == code):
            return MissingError(f"{what} {reason}", remedy)
    elsewhere = f"download it elsewhere with `hf download {id_}`, or give a directory: {instead}."
    if known is not None:
        reason, remedy = f": the hub answered {known.response.status_code}", "Check HF_ENDPOINT, or try again later."
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        reason, remedy = " does not fit on the disk", "Free some space, or set HF_HOME to a larger disk."
    elif is_offline_mode():
        reason, remedy = " is not in the local cache, and HF_HUB_OFFLINE is set", f"Unset it, {elsewhere}"
    elif str(error).startswith("Consistency check failed"):
        reason, remedy = ": the download is incomplete", "Run again; the download resumes where it stopped."
    else:
        reason = f" is not in the local cache, and the hub cannot be reached ({type(cause or error).__name__})"
        remedy = f"Connect to the network, {elsewhere}"
    return MissingError(what + reason, remedy)
