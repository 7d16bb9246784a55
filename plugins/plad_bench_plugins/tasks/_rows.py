"""Rows of a data set, from files here or from the hub, and what becomes of those that are no example."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeAlias

from plad_bench import BadRow, Example, MissingError, Origin, Params, StageError, UsageError, param
from plad_bench.contract.files import unreadable
from plad_bench.contract.hub import asking


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


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row as it was read."""

    where: str
    values: Mapping[str, Any]


class UnfitError(Exception):
    """A row is no example; the message says why, without its text."""


Read: TypeAlias = Iterator[Row | BadRow | Origin]


class PathParams(Params):
    """Where a published data set is read from."""

    path: Path | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, Parquet) or a directory of them; without it the rows come from the hub."""


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
) -> Iterator[Example | BadRow | Origin]:
    """What `convert` makes of every row; one that it refuses with UnfitError is a bad row.

    Raises:
        MissingError: if the data cannot be had.
        StageError: for a file that cannot be read at all.
    """
    for row in from_files(_files(task, path)) if path is not None else from_hub(task, hub):
        if isinstance(row, Row):
            try:
                yield convert(row.values)
            except UnfitError as unfit:
                yield BadRow(where=row.where, reason=str(unfit))
        else:
            yield row


def text(values: Mapping[str, Any], field: str) -> str:
    """The text of a field.

    Raises:
        UnfitError: if it is absent, empty, no text, or not UTF-8.
    """
    value = values.get(field)
    if value is None:
        raise UnfitError(f"no field {field}")
    if not isinstance(value, str):
        raise UnfitError(f"field {field} is of type {type(value).__name__}, not text")
    if not value.strip():
        raise UnfitError(f"field {field} is empty")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UnfitError(f"field {field} is not UTF-8") from None
    return value


# ---------------------------------------------------------------------------------------------------------- files


def from_files(files: Iterable[Path]) -> Iterator[Row | BadRow]:
    """Every row of every file.

    Raises:
        StageError: for a file that is broken as a whole.
        MissingError: for one that may not be read.
    """
    for file in files:
        try:
            yield from _READERS[file.suffix.lower()](file)
        except OSError as error:
            raise unreadable(file.name, error) from error


def files_of(path: Path) -> list[Path]:
    """A file of a known kind, or those below a directory."""
    path = path.expanduser()
    found = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file() and p.name[0] != ".")
    return [p for p in found if p.suffix.lower() in _READERS]


def _files(task: str, path: Path) -> list[Path]:
    files = files_of(path)
    if not files:
        what = f"holds no {', '.join(_READERS)} file" if path.exists() else "does not exist"
        raise MissingError(
            f"task {task}: {path} {what}",
            f"Give a file or a directory of files: {_instead(task)}.",
        )
    return files


def _instead(task: str) -> str:
    return f"--task '{'jsonl' if task == 'hub' else task}[path=PLACE]'"


def _json_lines(file: Path) -> Iterator[Row | BadRow]:
    with file.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield _parsed(f"{file.name}, line {number}", line.rstrip())


def _json(file: Path) -> Iterator[Row | BadRow]:
    """A list of objects, or JSON Lines under another name."""
    data = file.read_bytes()
    if not data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _json_lines(file)
        return
    try:
        items = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StageError(f"{file.name} is not JSON: {error}", "Correct the file.") from None
    for number, item in enumerate(items, 1):
        yield _object(f"{file.name}, item {number}", item)


def _parsed(where: str, line: bytes) -> Row | BadRow:
    try:
        return _object(where, json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        return BadRow(where=where, reason=f"not UTF-8 at byte {error.start + 1}")
    except json.JSONDecodeError as error:
        return BadRow(where=where, reason=f"not JSON: {error.msg} at column {error.colno}".replace("'", ""))
    except (ValueError, RecursionError):
        return BadRow(where=where, reason="not JSON: nested too deep, or a number too long")


def _object(where: str, value: Any) -> Row | BadRow:
    if isinstance(value, dict):
        return Row(where=where, values=value)
    return BadRow(where=where, reason="not a JSON object")


def _csv(file: Path) -> Iterator[Row | BadRow]:
    csv.field_size_limit(sys.maxsize)
    # what is not UTF-8 comes through as lone surrogates, so that `text` refuses the row and not the whole file
    with file.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        reader = csv.DictReader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",")
        try:
            "".join(reader.fieldnames or ()).encode()
        except UnicodeEncodeError:
            raise StageError(f"the header of {file.name} is not UTF-8", "Save the file as UTF-8.") from None
        while True:
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield BadRow(where=f"{file.name}, line {reader.line_num}", reason=f"not CSV: {error}")
                continue
            where = f"{file.name}, line {reader.line_num}"
            if None in values:
                yield BadRow(where=where, reason="more columns than the header has")
            else:
                yield Row(where=where, values=values)


def _parquet(file: Path) -> Iterator[Row]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches():
            for values in batch.to_pylist():
                number += 1
                yield Row(where=f"{file.name}, row {number}", values=values)
    except pa.ArrowException as error:
        raise StageError(f"{file.name} is not Parquet: {error}", "Correct the file.") from None


_READERS: dict[str, Callable[[Path], Iterator[Row | BadRow]]] = {
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}


# ------------------------------------------------------------------------------------------------------------ hub


def from_hub(task: str, hub: Hub) -> Read:
    """Every row of a data set, at the commit that the hub resolves now.

    Raises:
        MissingError: if it cannot be loaded.
        UsageError: see `_shadowed`.
    """
    _shadowed(hub)
    revision = _resolved(task, hub)
    try:
        from datasets import load_dataset

        loaded = load_dataset(
            hub.id, hub.config, data_dir=hub.folder, revision=revision or hub.revision, split=hub.split
        )
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
