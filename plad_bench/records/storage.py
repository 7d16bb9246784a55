"""Writes, reads and checks records, their per-example scores and their samples."""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from plad_bench.contract.errors import PladBenchError
from plad_bench.contract.files import write_atomically
from plad_bench.contract.jsonlines import numbered
from plad_bench.contract.renamed import METRICS
from plad_bench.records import migration
from plad_bench.records.schema import SCHEMA, Ids, Record, Sample

LARGEST = 16 * 2**20
"""Maximum bytes of a record file; larger files are not read."""

LARGEST_SCORE = 1e100
"""Maximum of a score. Its square is finite, with room for sums."""

LONGEST_SAMPLE = 2000
"""Maximum characters of a sample's texts; longer ones are truncated."""


class RecordError(PladBenchError):
    """A file under cells/ is not a record."""


class UnreadableError(RecordError):
    """A file under cells/ cannot be read now, and may be a valid record."""


def parse(text: str, origin: str) -> Record:
    """Read a record, migrating an older schema.

    Raises:
        RecordError: naming the file and its first error.
    """
    remedy = "Delete the file or restore it from version control."
    try:
        data = json.loads(text, parse_constant=_refuse, parse_float=_finite)
        if r"\ud" in text.lower():  # half of a surrogate pair is not text: no page could show it
            json.dumps(data, ensure_ascii=False).encode()
        return Record.model_validate(migrate(data), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])[:200]
        raise RecordError(f"{origin}: {where}: {first['msg']}", remedy) from None
    except (ValueError, TypeError, RecursionError, OverflowError) as error:
        raise RecordError(f"{origin}: not a record: {error}", remedy) from None


def migrate(data: Any) -> Any:
    """Bring a record of an older schema to the present one.

    Raises:
        TypeError: if it is not an object.
        ValueError: for a schema newer than this version's.
    """
    if not isinstance(data, dict):
        msg = "not a JSON object"
        raise TypeError(msg)
    if data.get("schema") == 0:  # before the first release `protocol` was named `budget`
        data = {**data, "schema": 1, "protocol": data.get("protocol", data.get("budget", {}))}
        data.pop("budget", None)
    if data.get("schema") == 1:
        data = migration.renamed(data)
    if data.get("schema") != SCHEMA:
        msg = f"schema {str(data.get('schema'))[:40]} is unknown to this version, which reads schemas up to {SCHEMA}"
        raise ValueError(msg)
    return data


def read(path: Path) -> Record:
    """Read one record file.

    Raises:
        RecordError: if there is no valid record; UnreadableError if the file cannot be read.
    """
    remedy = "Restore it from version control."
    try:
        with path.open("rb") as stream:
            text = stream.read(LARGEST + 1).decode()
    except (FileNotFoundError, NotADirectoryError, UnicodeDecodeError) as error:
        raise RecordError(f"{path.name}: cannot be read: {error}", remedy) from None
    except OSError as error:
        raise UnreadableError(f"{path.name}: cannot be read: {error}", "Make it readable, and try again.") from None
    if len(text) > LARGEST:
        raise RecordError(f"{path.name}: exceeds the maximum size of a record", "Delete the file.")
    return parse(text, path.name)


def dumps(record: Record) -> str:
    """The content of a record's file: sorted keys, two spaces, no NaN.

    Raises:
        RecordError: if a parameter or a provenance note is not a JSON value.
    """
    try:
        data = record.model_dump(mode="json", by_alias=True)
        return json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{record.cell}: cannot be written as JSON: {error}") from None


def write(path: Path, record: Record) -> None:
    """Write a record atomically."""
    write_atomically(path, dumps(record).encode())


def at(value: Any, *names: str) -> Any:
    """The value at these keys in nested tables; None if there is none."""
    for name in names:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def is_prompt(example: str) -> bool:
    """Whether an example is a prompt of the task, rather than a metric's own, which is named "metric:example"."""
    return ":" not in example


def summarise(values: np.ndarray) -> tuple[float | None, int, float | None]:
    """(mean, n, standard error) over the values that are not NaN."""
    kept = values[~np.isnan(values)]
    if not kept.size:
        return None, 0, None
    stderr = float(kept.std(ddof=1) / math.sqrt(kept.size)) if kept.size > 1 else None
    return float(kept.mean()), int(kept.size), stderr


def scores_bytes(ids: list[str], columns: dict[str, np.ndarray]) -> bytes:
    """Per-example values as a parquet file: `example` and a float64 column per metric. No text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    # From buffers: pa.array would import pandas, which takes longer than the rest together.
    encoded = [example.encode() for example in ids]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int32)
    examples = pa.StringArray.from_buffers(len(ids), pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded)))

    def floats(values: np.ndarray) -> Any:
        values = np.ascontiguousarray(values, np.float64)
        return pa.Array.from_buffers(pa.float64(), len(values), [None, pa.py_buffer(values)])

    table = pa.table({"example": examples, **{name: floats(columns[name]) for name in sorted(columns)}})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="snappy")  # read three times faster than zstd
    return sink.getvalue()


def read_scores(path: Path, sha256: str, examples: int | None = None) -> tuple[Ids, dict[str, np.ndarray]]:
    """Example ids and columns of a scores file, after checking its hash and, if given, its number of examples.

    Raises:
        RecordError: if the file is missing, differs from the record's hash, or is not a table of scores.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    remedy = "Restore it from version control, or run the cell again with --rerun all."
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise RecordError(f"{path.name}: the per-example scores of the record beside it are missing", remedy) from None
    except OSError as error:
        raise UnreadableError(f"{path.name}: cannot be read: {error}", "Make it readable, and try again.") from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RecordError(f"{path.name}: differs from the file that its record names (the hash differs)", remedy)
    try:
        with pq.ParquetFile(pa.BufferReader(data), pre_buffer=False) as file:  # all of it is in memory
            if examples is not None and file.metadata.num_rows != examples:
                raise RecordError(
                    f"{path.name}: has {file.metadata.num_rows} examples, its record says {examples}", remedy
                )
            table = file.read(use_threads=False)
        ids = _ids(table.select(["example"]))
        names = [name for name in table.column_names if name != "example"]
        columns = table.select(names)
        numbers = set(columns.schema.types) <= {pa.float64()}
        values = _matrix(columns) if numbers and names else np.empty((0, len(table)))
    except (pa.ArrowException, KeyError, ValueError, TypeError, OSError, OverflowError, MemoryError) as error:
        raise RecordError(f"{path.name}: is not a table of scores: {error}", remedy) from None
    if ids is None:
        raise RecordError(f"{path.name}: an example has no id, or several have the same id", remedy)
    if not numbers or (np.abs(values) > LARGEST_SCORE).any():
        raise RecordError(f"{path.name}: a score is not a number of at most {LARGEST_SCORE:g}", remedy)
    return ids, {METRICS.get(name, name): column for name, column in zip(names, values, strict=True)}


def _ids(table: Any) -> Ids | None:
    """The strings of a table's only column; None if there are other types, missing values or duplicates."""
    import pyarrow as pa

    if table.schema.types != [pa.string()] or table[0].null_count:
        return None
    batches = table.combine_chunks().to_batches()
    return _distinct(batches[0].serialize().to_pybytes()) if batches else ()


@lru_cache(maxsize=8)
def _distinct(batch: bytes) -> Ids | None:
    """The strings of a serialised column, which most cells of a board share; None if there are duplicates."""
    import pyarrow as pa

    ids = tuple(pa.ipc.read_record_batch(pa.py_buffer(batch), pa.schema([("", pa.string())]))[0].to_pylist())
    return ids if len(set(ids)) == len(ids) else None


def _matrix(table: Any) -> np.ndarray:
    """The columns of a table of float64 as the rows of an array, NaN for null; ten times faster than one by one."""
    batches = table.combine_chunks().to_batches()
    if not batches:
        return np.empty((table.num_columns, 0))
    matrix: np.ndarray = batches[0].to_tensor(null_to_nan=True, row_major=False).to_numpy().T
    return matrix


def samples_bytes(samples: Iterable[Sample]) -> bytes:
    """Samples as JSON lines in ASCII, with long texts truncated."""

    def cut(text: str) -> str:
        text = text if len(text) <= LONGEST_SAMPLE else f"{text[:LONGEST_SAMPLE]}…"
        return text.encode(errors="replace").decode()

    rows = ({name: cut(text) for name, text in sample.model_dump().items()} for sample in samples)
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def read_samples(path: Path, sha256: str) -> list[Sample]:
    """The samples of a file, after checking its hash.

    Raises:
        RecordError: if the file is missing, differs from the record's hash, or does not hold samples.
    """
    remedy = "Restore it from version control, or delete the record and run the cell again."
    try:
        data = path.read_bytes()
    except OSError:
        raise RecordError("the samples of the record beside it are missing", remedy) from None
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RecordError("differs from the file that its record names (the hash differs)", remedy)
    try:
        return [Sample.model_validate_json(line, strict=True) for _, line in numbered(io.BytesIO(data))]
    except ValueError as error:
        first = str(error).splitlines()[0]
        raise RecordError(f"does not hold samples: {first}", remedy) from None


def _refuse(constant: str) -> None:
    msg = f"{constant} is not a JSON number"
    raise ValueError(msg)


def _finite(digits: str) -> float:
    value = float(digits)
    if math.isinf(value):
        msg = f"{digits[:40]} exceeds the largest number of a record"
        raise ValueError(msg)
    return value
