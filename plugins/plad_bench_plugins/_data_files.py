"""Files with rows: which there are in a directory, and every row of each, read or refused."""

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
"""What the names of files begin with that may lie beside data and hold no rows."""
_ABOUT = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "state.json", "_success"}
"""Files in which the package `datasets` and Spark say something of the data beside them."""
_NAMED = 5
"""How many files a message names."""


@dataclass(frozen=True, kw_only=True)
class DataRow:
    """One row as it was read."""

    where: str
    values: Mapping[str, Any]


Rows: TypeAlias = Iterator[DataRow | BadRow]


@dataclass(frozen=True, kw_only=True)
class Listing:
    """The files of a place."""

    data: tuple[Path, ...]
    """In the order of their names."""
    beside: tuple[Path, ...] = ()
    """Files that say something of the data and are not read."""
    root: Path

    def name(self, file: Path) -> str:
        """A file's path below its directory, or its name if the place is the file itself."""
        return file.name if file == self.root else file.relative_to(self.root).as_posix()


def listed(path: Path) -> Listing:
    """The data files of a place: a file, or all below a directory, which may hold nothing else.

    Hidden files and directories are none. A place that does not exist, or a file of another kind, has no data file.

    Raises:
        UsageError: for a directory that holds other things than data.
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
            f"{path} holds other things than data files, among them {names}",
            f"Name a file, or a directory that holds data alone ({KINDS}).",
        )
    return Listing(root=path, data=tuple(sorted(data)), beside=tuple(sorted(beside)))


def _usable(path: Path) -> Path:
    """A path as it may be hashed and read: with the home directory in place of ~.

    Raises:
        UsageError: as `listed`, or for a place that belongs to a board.
        MissingError: if the file system refuses to say what is there.
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
                f"{path} belongs to the board {above.name}, which a run writes to", "Give the data a place of its own."
            )
    listed(path)
    return path


DataPath: TypeAlias = Annotated[Path, AfterValidator(_usable)]
"""The type of a parameter that names a file with rows, or a directory of them."""


def rows(listing: Listing) -> Iterator[DataRow | BadRow | Source]:
    """Every row of every file, and after those of each file how many there were.

    Raises:
        StageError: for a file that is broken as a whole.
        MissingError: for one that may not be read.
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
            if error.errno is None:  # a library's, of the content
                raise _broken(name, count, error) from None
            raise unreadable(name, error) from error
        yield Source(name=name, rows=count, remark="; ".join(remarks))
    for file in listing.beside:
        yield Source(name=listing.name(file), rows=None, remark="not data")


def _walk(directory: Path) -> Iterator[Path]:
    """Whatever lies below a directory and is no directory, in the order of names; a link to a directory is one."""

    def refuse(error: OSError) -> None:
        raise unreadable(str(error.filename), error)

    for place, directories, files in os.walk(directory, onerror=refuse):
        for name in sorted([*files, *(d for d in directories if (Path(place) / d).is_symlink())]):
            if not name.startswith("."):
                yield Path(place) / name
        directories[:] = sorted(d for d in directories if not d.startswith("."))


def _opened(file: Path) -> IO[bytes]:
    """A file as a stream of its uncompressed bytes."""
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
        f"{name} is not what its name says, or is cut short, after {count} rows: {said}", "Correct the file."
    )


# ------------------------------------------------------------------------------------------------------------ formats

_Reader: TypeAlias = Callable[[str, IO[bytes], list[str]], Rows]
"""(name, uncompressed bytes, remarks to add to) -> rows."""


def _kind(name: str) -> str:
    """The suffix of a file's name before it was compressed."""
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
    """A list of objects, or JSON Lines under another name."""
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
            "Give a list of objects, or JSON Lines: an object for each row.",
        )
    for number, item in enumerate(whole if isinstance(whole, list) else [whole], 1):
        yield _object(f"{name}, item {number}", item)


def _object(where: str, value: Any) -> DataRow | BadRow:
    if isinstance(value, dict):
        return DataRow(where=where, values=value)
    return BadRow(where=where, reason="not a JSON object")


def _csv(name: str, stream: IO[bytes], remarks: list[str]) -> Rows:
    # what is not UTF-8 comes through as lone surrogates, so that `text` refuses the row and not the whole file
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
