"""Finds data files in a directory, and reads their rows."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Annotated, Any, TypeAlias

from pydantic import AfterValidator

from plad_bench import BadRow, Source, StageError, UsageError
from plad_bench.contract import jsonlines
from plad_bench.contract.files import unreadable
from plad_bench_plugins._csv_rows import CsvTable

KINDS = "JSON Lines, JSON, CSV, TSV, Parquet or Arrow, also as .gz, .bz2, .xz or .zst"
_BESIDE = ("readme", "license", "licence", "copying", "notice", "citation", "changelog", "sha256sums", "md5sums")
"""Beginnings of names of files that may be beside data and hold no rows."""
_ABOUT = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json", "_success"}
"""Files of the package `datasets` and of Spark with facts about the data beside them."""
_NAMED = 5
"""Number of files that a message names."""


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """A row of a data file."""

    where: str
    values: Mapping[str, Any]


Rows: TypeAlias = Iterator[DataRow | BadRow]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files at a path."""

    data: tuple[Path, ...]
    """Sorted by name."""
    beside: tuple[Path, ...] = ()
    """Files about the data, which are not read."""
    root: Path

    def name(self, file: Path) -> str:
        """A file's path below its directory, or its name if the path is the file itself."""
        return file.name if file == self.root else file.relative_to(self.root).as_posix()


def listed(path: Path) -> Listing:
    """The data files at a path: a file, or all files below a directory, which may hold no others.

    Hidden files and directories are ignored. A path that does not exist, or a file of another kind, has no data files.

    Raises:
        UsageError: for a directory that holds files other than data.
        MissingError: for a directory that cannot be listed.
    """
    if not path.is_dir():
        return Listing(root=path, data=(path,) if path.is_file() and _kind(path.name) in _READERS else ())
    data, beside, others = [], [], []
    for file in _walk(path):
        name = file.name.lower()
        if name in _ABOUT or name.startswith(_BESIDE) or name.endswith((".sha256", ".md5")):
            beside.append(file)
        elif _kind(name) in _READERS and file.is_file():
            data.append(file)
        else:
            others.append(file)
            if len(others) == _NAMED or file.name == "board.toml":
                break
    if others:
        names = ", ".join(file.relative_to(path).as_posix() for file in others)
        raise UsageError(
            f"{path} holds files other than data, among them {names}",
            f"Choose a file, or a directory that holds data only ({KINDS}).",
        )
    return Listing(root=path, data=tuple(sorted(data)), beside=tuple(sorted(beside)))


def _usable(path: Path) -> Path:
    """A path for hashing and reading, with the home directory in place of ~.

    Raises:
        UsageError: as `listed`, or for a path inside a board.
        MissingError: if the file system denies access.
    """
    try:
        path = path.expanduser()
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return path
    except (OSError, ValueError, RuntimeError) as error:
        refused = error if isinstance(error, OSError) else OSError(str(error))
        raise unreadable(f"path={str(path)[:80]}", refused) from None
    for above in (path.absolute(), *path.absolute().parents):
        if (above / "board.toml").is_file():
            raise UsageError(
                f"{path} belongs to the board {above.name}, which runs write to", "Move the data outside of boards."
            )
    listed(path)
    return path


DataPath: TypeAlias = Annotated[Path, AfterValidator(_usable)]
"""The type of a parameter with a data file, or a directory of data files."""


def rows(listing: Listing) -> Iterator[DataRow | BadRow | Source]:
    """Every row of every file, with the number of rows after each file.

    Raises:
        StageError: for a file that cannot be parsed at all.
        MissingError: for a file without read permission.
    """
    for file in listing.data:
        name, reader = listing.name(file), _READERS[_kind(file.name)]
        remarks: list[str] = []
        count = 0
        try:
            with _opened(file) as stream:
                for row in reader(name, stream, remarks):
                    count += 1
                    yield row
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise _broken(name, count, error) from None
        except OSError as error:
            if error.errno is None:  # raised by a library about the content
                raise _broken(name, count, error) from None
            raise unreadable(name, error) from error
        yield Source(name=name, rows=count, remark="; ".join(remarks))
    for file in listing.beside:
        yield Source(name=listing.name(file), rows=None, remark="not data")


def _walk(directory: Path) -> Iterator[Path]:
    """All files below a directory, sorted by name; a link to a directory counts as a file."""

    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename), error)

    for place, directories, files in os.walk(directory, onerror=refuse):
        for name in sorted([*files, *(d for d in directories if (Path(place) / d).is_symlink())]):
            if not name.startswith("."):
                yield Path(place) / name
        directories[:] = sorted(d for d in directories if not d.startswith("."))


def _opened(file: Path) -> IO[bytes]:
    """A file as a stream of uncompressed bytes."""
    suffix = file.suffix.lower()
    if suffix in _OPENERS:
        return io.BufferedReader(_OPENERS[suffix](file))
    if suffix == ".zst":
        import pyarrow as pa

        return io.BufferedReader(pa.CompressedInputStream(pa.PythonFile(file.open("rb"), "r"), "zstd"))
    return file.open("rb")


_OPENERS: dict[str, Any] = {".gz": gzip.GzipFile, ".bz2": bz2.BZ2File, ".xz": lzma.LZMAFile}


def _broken(name: str, count: int, error: Exception) -> StageError:
    said = " ".join(str(error).split())[:200] or type(error).__name__
    return StageError(
        f"{name} does not match its suffix, or is truncated, after {count} rows: {said}", "Correct the file."
    )


# ------------------------------------------------------------------------------------------------------------ formats

_Reader: TypeAlias = Callable[[str, IO[bytes], list[str]], Rows]
"""(name, uncompressed bytes, list for remarks) -> rows."""


def _kind(name: str) -> str:
    """The suffix of a file's name without the compression's."""
    stem = name.lower()
    for compressed in (*_OPENERS, ".zst"):
        stem = stem.removesuffix(compressed)
    return Path(stem).suffix


def _json_lines(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    for number, line in jsonlines.numbered(stream):
        where = f"{name}, line {number}"
        try:
            yield _object(where, jsonlines.parse(line))
        except jsonlines.NotJsonError as error:
            yield BadRow(where=where, reason=str(error))


def _json(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    """A list of objects, or JSON Lines under another suffix."""
    data = stream.read()
    try:
        whole = jsonlines.parse(data) if data.strip(b"\xef\xbb\xbf \t\r\n") else []
    except jsonlines.NotJsonError as error:
        if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
            raise StageError(f"{name} is not JSON: {error}", "Correct the file.") from None
        yield from _json_lines(name, io.BytesIO(data), remarks)
        return
    if isinstance(whole, dict) and b"\n" in data.strip():
        raise StageError(
            f"{name} is one JSON object, with the fields {', '.join(f'{k!r}' for k in list(whole)[:_NAMED])}",
            "Use a list of objects, or JSON Lines with an object for each row.",
        )
    for number, item in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield _object(f"{name}, item {number}", item)


def _object(where: str, value: Any) -> DataRow | BadRow:
    if isinstance(value, dict):
        return DataRow(where=where, values=value)
    return BadRow(where=where, reason="not a JSON object")


def _csv(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    # Invalid UTF-8 becomes lone surrogates, so that `text` refuses the row and not the whole file.
    with io.TextIOWrapper(stream, encoding="utf-8-sig", errors="surrogateescape", newline="") as text:
        table = CsvTable(name, "\t" if _kind(name) == ".tsv" else ",", remarks)
        for line, row in table.rows(text):
            where = f"{name}, line {line}"
            yield BadRow(where=where, reason=row) if isinstance(row, str) else DataRow(where=where, values=row)


def _parquet(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    import pyarrow.parquet as pq

    yield from _batches(name, "Parquet", lambda: pq.ParquetFile(_seekable(stream)).iter_batches())


def _arrow(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    """An Arrow file (Feather), or a stream, as `datasets` saves it."""
    import pyarrow.ipc

    def batches() -> Iterator[Any]:
        whole = _seekable(stream)
        if whole.read(6) == b"ARROW1":
            reader = pyarrow.ipc.open_file(whole)
            return (reader.get_batch(i) for i in range(reader.num_record_batches))
        whole.seek(0)
        return iter(pyarrow.ipc.open_stream(whole))

    yield from _batches(name, "Arrow", batches)


def _batches(name: str, kind: str, batches: Callable[[], Iterator[Any]]) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches():
            for values in batch.to_pylist():
                number += 1
                yield DataRow(where=f"{name}, row {number}", values=values)
    except (pa.ArrowException, ValueError, OverflowError) as error:
        said = " ".join(str(error).split())[:200]
        raise StageError(f"{name} is not {kind}: {said}", "Correct the file.") from None


def _seekable(stream: IO[bytes]) -> IO[bytes]:
    return stream if isinstance(getattr(stream, "raw", None), io.FileIO) else io.BytesIO(stream.read())


_READERS: dict[str, _Reader] = {
    ".jsonl": _json_lines,
    ".ndjson": _json_lines,
    ".json": _json,
    ".csv": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
    ".pq": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
}
