"""Examples from rows: of files here, or of a data set on the hub; and what becomes of rows that are no example."""

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
from plad_bench_plugins._data_files import KINDS, DataPath, Listing, Row, listed

LISTED = 12
"""How many fields of a row a message lists."""
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
"""A field -> what else data sets call it, the likeliest first."""


@dataclass(frozen=True, kw_only=True)
class Hub:
    """A data set on the hub."""

    id: str
    config: str | None = None
    """One of its configurations."""
    folder: str | None = None
    """One of its folders."""
    revision: str | None = None
    """Branch, tag or commit; None is what the hub resolves."""
    split: str | None = None
    """One of its splits, or several: train+test. None pools them all."""


class UnfitError(Exception):
    """A row is no example; the message says why, without its text."""

    def __init__(self, reason: str, *, missing: str = "") -> None:
        super().__init__(reason)
        self.missing = missing
        """The field that it lacks, if that is why."""


class PathParams(Params):
    """Where a published data set is read from."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet, Arrow; also compressed) or a directory that holds such files alone;
    without it the rows come from the hub."""


def require(task: str, path: Path | None, hub: Hub) -> None:
    """Check that the data can be had.

    Raises:
        MissingError: if `path` holds no file of a known kind, or the hub is meant and `datasets` is not installed, or
            the hub cannot be reached or has no such data set.
        UsageError: see `_shadowed`.
    """
    if path is not None:
        _files(task, path)
        return
    _shadowed(hub)
    if find_spec("datasets") is None:
        raise MissingError(
            f"task {task} reads {hub.id} from the hub, which needs the package `datasets`",
            f"pip install 'plad-bench[hub]', or give its files: {_instead(task)}.",
        )
    _resolved(task, hub)


def examples(
    task: str, path: Path | None, hub: Hub, convert: Callable[[Mapping[str, Any]], Example]
) -> Iterator[Loaded]:
    """What `convert` makes of every row; one that it refuses with UnfitError is a bad row.

    Raises:
        MissingError: if the data cannot be had.
        StageError: for a file that cannot be read at all.
    """
    for row in _data_files.rows(_files(task, path)) if path is not None else from_hub(task, hub):
        if isinstance(row, Row):
            try:
                yield convert(row.values)
            except UnfitError as unfit:
                yield BadRow(where=row.where, reason=str(unfit), hint=hint(row.values, unfit.missing))
        else:
            yield row


def hint(values: Mapping[str, Any], missing: str) -> str:
    """What may help whoever named a field that a row lacks: the fields it has, and which of them may be meant."""
    if not missing:
        return ""
    names = [name for name, value in values.items() if value is not None]
    there = ", ".join(repr(name[:40]) for name in names[:LISTED]) + (", ..." if len(names) > LISTED else "")
    wanted = [missing, *(name for name in ALSO_CALLED if missing in ALSO_CALLED and name not in {missing, *names})]
    guesses = {name: _guess(name, names) for name in wanted}
    meant = ", ".join(f"{name}={guess}" for name, guess in guesses.items() if guess)
    return f"it has the fields {there}{f'; try {meant}?' if meant else ''}" if names else "it has no fields"


def _guess(field: str, names: Sequence[str]) -> str:
    """Which of a row's fields may be meant by another name; empty if none looks like it."""
    folded = {name.casefold().strip(): name for name in reversed(names)}
    near = difflib.get_close_matches(field.casefold(), folded, n=1, cutoff=0.75)
    return next((folded[name] for name in (*near, *ALSO_CALLED.get(field, ())) if name in folded), "")


def text(values: Mapping[str, Any], field: str) -> str:
    """The text of a field.

    Raises:
        UnfitError: if it is absent, empty, no text, or not UTF-8.
    """
    value = values.get(field)
    if value is None:
        raise UnfitError(f"no field {field}", missing=field)
    if not isinstance(value, str):
        raise UnfitError(f"field {field} is of type {type(value).__name__}, not text")
    return checked(value, field)


def checked(value: str, field: str) -> str:
    """The text of a field, or of a part of it. Errors as `text`."""
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
        what = f"holds no file of a kind that is read ({KINDS})" if path.exists() else "does not exist"
        raise MissingError(
            f"task {task}: {path} {what}",
            f"Give a file or a directory of files: {_instead(task)}.",
        )
    return listing


def _instead(task: str) -> str:
    return f"--task '{'jsonl' if task == 'hub' else task}[path=PLACE]'"


# ------------------------------------------------------------------------------------------------------------ hub


def from_hub(task: str, hub: Hub) -> Iterator[Row | Origin | Source]:
    """Every row of a data set, at the commit that the run is pinned to, or else the one that the hub has now.

    Raises:
        MissingError: if it cannot be loaded.
        UsageError: see `_shadowed`.
    """
    _shadowed(hub)
    revision = pinned(hub.id, hub.revision, "dataset")
    if revision == hub.revision:
        revision = _resolved(task, hub) or revision
    try:
        from datasets import load_dataset

        loaded = load_dataset(hub.id, hub.config, data_dir=hub.folder, revision=revision, split=hub.split)
    except Exception as error:  # the hub's client raises many kinds, offline or when an id moved
        cause = (str(error).strip() or "no reason given").splitlines()[0]
        raise MissingError(
            f"task {task}: cannot load {hub.id} from the hub: {type(error).__name__}: {cause}",
            f"Check the network and the name, or give its files: {_instead(task)}.",
        ) from error
    if revision:
        yield Origin(id=hub.id, revision=revision)
    for name, rows in loaded.items() if isinstance(loaded, dict) else [(hub.split, loaded)]:
        for number, values in enumerate(rows):
            yield Row(where=f"{hub.id}, {name}, row {number}", values=values)
        yield Source(name=f"{hub.id}, {name}", rows=len(rows))


def _resolved(task: str, hub: Hub) -> str | None:
    """The commit that the hub has now; None offline, where `datasets` reads its own cache.

    Raises:
        MissingError: if the hub does not tell.
    """
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:
        return None
    what, how = f"task {task}: data set {hub.id}", f"{hub.id} --repo-type dataset"
    instead = f"{_instead(task)}; what was loaded before is read with HF_HUB_OFFLINE=1"
    with asking(what, how, hub.revision, instead):
        info = HfApi().dataset_info(hub.id, revision=hub.revision, timeout=10)
        if info.gated:  # whoever may not read it is told all the same what it is
            HfApi().auth_check(hub.id, repo_type="dataset")
    return info.sha


def _shadowed(hub: Hub) -> None:
    """Refuse an id that is a directory here too: the loader would prefer that, and no key would know its content."""
    if Path(hub.id).is_dir():
        raise UsageError(
            f"{hub.id} names a data set on the hub, and is a directory here too",
            "Give the directory as path=, or run from elsewhere to use the hub.",
        )
