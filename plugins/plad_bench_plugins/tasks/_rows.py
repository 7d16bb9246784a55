"""Examples from rows of local files or of a data set on the hub, and bad rows."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plad_bench import BadRow, Example, Loaded, MissingError, Origin, Params, Source, UsageError, param
from plad_bench.contract.hub import asking, pinned
from plad_bench_plugins import _data_files
from plad_bench_plugins._data_files import KINDS, DataPath, DataRow, Listing, listed

LISTED = 12
"""Maximum number of fields in a message."""
ALSO_CALLED = {
    "prompt": (
        *("question", "query", "instruction", "input", "problem", "source", "document", "article", "dialogue", "post"),
        *("text", "context"),
    ),
    "response": (
        *("completion", "answer", "output", "target", "summary", "label", "reference", "references", "chosen", "reply"),
        *("solution", "gold_response", "text"),
    ),
}
"""Field -> alternative names in data sets, most likely first."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set on the hub."""

    id: str
    config: str | None = None
    """Name of a configuration."""
    folder: str | None = None
    """Name of a folder."""
    revision: str | None = None
    """Branch, tag or commit; None for the hub's default."""
    split: str | None = None
    """A split, or several, such as train+test; None pools all splits."""


class UnfitError(Exception):
    """A row is unusable; the message gives the reason without quoting the row."""

    def __init__(self, reason: str, *, missing: str = "") -> None:
        super().__init__(reason)
        self.missing = missing
        """The missing field, if that is the reason."""


class PathParams(Params):
    """Location of a published data set."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet or Arrow, optionally compressed) or a directory with only such files.
    If unset, the rows are read from the hub."""


def require(task: str, path: Path | None, hub: Hub) -> None:
    """Check that the data is available.

    Raises:
        MissingError: if `path` contains no file of a known kind; or, without `path`, if `datasets` is not installed,
            the hub cannot be reached, or the data set does not exist.
        UsageError: see `_shadowed`.
    """
    if path is not None:
        _files(task, path)
        return
    _shadowed(hub)
    if find_spec("datasets") is None:
        raise MissingError(
            f"task {task} needs the package `datasets` to read {hub.id} from the hub",
            f"pip install 'plad-bench[hub]', or give local files: {_instead(task)}.",
        )
    _resolved(task, hub)


def examples(
    task: str, path: Path | None, hub: Hub, convert: Callable[[Mapping[str, Any]], Example]
) -> Iterator[Loaded]:
    """Convert all rows; a row for which `convert` raises UnfitError is a bad row.

    Raises:
        MissingError: if the data is unavailable.
        StageError: if a file cannot be read.
    """
    for row in _data_files.rows(_files(task, path)) if path is not None else from_hub(task, hub):
        if isinstance(row, DataRow):
            try:
                yield convert(row.values)
            except UnfitError as unfit:
                yield BadRow(where=row.where, reason=str(unfit), hint=hint(row.values, unfit.missing))
        else:
            yield row


def hint(values: Mapping[str, Any], missing: str) -> str:
    """A hint for a missing field: the fields of the row, and the one that may be meant."""
    if not missing:
        return ""
    names = [name for name, value in values.items() if value is not None]
    there = ", ".join(repr(name[:40]) for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    wanted = [missing, *(name for name in ALSO_CALLED if missing in ALSO_CALLED and name not in {missing, *names})]
    guesses = {name: _guess(name, names) for name in wanted}
    meant = ", ".join(f"{name}={guess}" for name, guess in guesses.items() if guess)
    return f"it has the fields {there}{f'; try {meant}?' if meant else ''}" if names else "it has no fields"


def _guess(field: str, names: Sequence[str]) -> str:
    """The field of a row that may be meant; empty if none is similar."""
    folded = {name.casefold().strip(): name for name in reversed(names)}
    near = difflib.get_close_matches(field.casefold(), folded, n=1, cutoff=0.75)
    return next((folded[name] for name in (*near, *ALSO_CALLED.get(field, ())) if name in folded), "")


def text(values: Mapping[str, Any], field: str) -> str:
    """The text of a field.

    Raises:
        UnfitError: if the field is missing, empty, not a string, or not valid UTF-8.
    """
    value = values.get(field)
    if value is None:
        raise UnfitError(f"no field {field}", missing=field)
    if not isinstance(value, str):
        raise UnfitError(f"field {field} is of type {type(value).__name__}, not text")
    return checked(value, field)


def checked(value: str, field: str) -> str:
    """Check the text of a field or of a part of it. Errors as `text`."""
    if not value.strip():
        raise UnfitError(f"field {field} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"field {field} is not UTF-8") from None
    return value


def _files(task: str, path: Path) -> Listing:
    listing = listed(path)
    if not listing.data:
        what = f"contains no file of a supported kind ({KINDS})" if path.exists() else "does not exist"
        raise MissingError(
            f"task {task}: {path} {what}",
            f"Give a file or a directory of files: {_instead(task)}.",
        )
    return listing


def _instead(task: str) -> str:
    return f"--task '{'jsonl' if task == 'hub' else task}[path=PATH]'"


# ------------------------------------------------------------------------------------------------------------ hub


def from_hub(task: str, hub: Hub) -> Iterator[DataRow | Origin | Source]:
    """The rows of a data set on the hub, at the run's pinned commit, or else at the current one.

    Raises:
        MissingError: if the data set cannot be loaded.
        UsageError: see `_shadowed`.
    """
    _shadowed(hub)
    revision = pinned(hub.id, hub.revision, "dataset")
    if revision == hub.revision:
        revision = _resolved(task, hub) or revision
    try:
        from datasets import load_dataset

        loaded = load_dataset(hub.id, hub.config, data_dir=hub.folder, revision=revision, split=hub.split)
    except Exception as error:  # the hub's client raises many kinds of errors
        cause = (str(error).strip() or "no reason given").splitlines()[0]
        raise MissingError(
            f"task {task}: cannot load {hub.id} from the hub: {type(error).__name__}: {cause}",
            f"Check the network and the name, or give local files: {_instead(task)}.",
        ) from error
    if revision:
        yield Origin(id=hub.id, revision=revision)
    for name, rows in loaded.items() if isinstance(loaded, dict) else [(hub.split, loaded)]:
        for number, values in enumerate(rows):
            yield DataRow(where=f"{hub.id}, {name}, row {number}", values=values)
        yield Source(name=f"{hub.id}, {name}", rows=len(rows))


def _resolved(task: str, hub: Hub) -> str | None:
    """The current commit on the hub; None if offline, when `datasets` uses its cache.

    Raises:
        MissingError: if the hub does not return it.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    what, how = f"task {task}: data set {hub.id}", f"{hub.id} --repo-type dataset"
    instead = f"{_instead(task)}; to use cached data, set HF_HUB_OFFLINE=1"
    with asking(what, how, hub.revision, instead):
        info = HfApi().dataset_info(hub.id, revision=hub.revision, timeout=10)
        if info.gated:  # its metadata is public even if its files are not
            HfApi().auth_check(hub.id, repo_type="dataset")
    return info.sha


def _shadowed(hub: Hub) -> None:
    """Refuse an id that is also a local directory: the loader would read it, but its content would not be keyed."""
    if Path(hub.id).is_dir():
        raise UsageError(
            f"{hub.id} is a data set on the hub, but also a local directory",
            "Give the directory as path=, or run in another working directory to use the hub.",
        )
