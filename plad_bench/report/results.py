"""The record of one cell: its schema, and how it is read and written.

Keys that outsiders read, and that therefore stay: schema, cell, key, status, seed, task.name, teacher.name,
student.name, method.name, method.params, metrics.<name>.{value, better, n, stderr}, cost, timing, provenance.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from plad_bench.contract.errors import PladBenchError
from plad_bench.contract.files import write_atomically

SCHEMA = 1
REFERENCE_METHODS = ("teacher", "student", "warmup")
"""Method names of the reference rows: never ranked."""

Name = Annotated[str, Field(min_length=1, max_length=300)]


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(_Part):
    """A component as it was resolved: name, version, every parameter, and the distribution it came from."""

    name: Name
    selector: str
    """As it was typed."""
    params: dict[str, Any]
    version: int
    plugin: str


class MethodPart(Named):
    """The method, with what a reader of a board must know of it."""

    access: str
    paper: str
    lr: float
    """Peak learning rate it trained with."""
    lr_shared: bool
    """Whether that is the board's shared rate rather than the method's own."""


class TaskPart(Named):
    """The task, with its data's licence."""

    licence: str
    redistributable: bool


class MetricPart(_Part):
    """One metric of one cell."""

    value: float | None
    """Mean over the examples that have a value; None if none has."""
    better: Literal["higher", "lower"] | None
    n: int
    stderr: float | None
    """Over examples, of this cell alone."""
    unit: str
    key: str
    """Key of the score stage."""


class ScoresPart(_Part):
    """Where the per-example values lie, and their hash."""

    file: str
    sha256: str
    examples: int


class Record(_Part):
    """One cell."""

    schema_: int = Field(SCHEMA, alias="schema")
    cell: str
    """Readable id, also the path of the record below cells/ (without .json)."""
    key: str
    """Key of the stage that made the evaluated responses; empty for a skipped cell."""
    status: Literal["done", "failed", "skipped", "trial"]
    reason: str = ""
    """Why it failed or was skipped."""
    seed: int
    task: TaskPart
    teacher: Named
    student: Named
    method: MethodPart
    pairs: Named | None = None
    protocol: dict[str, Any]
    """The board's controlled conditions: budget, decoding, split, precision."""
    metrics: dict[str, MetricPart] = {}
    scores: ScoresPart | None = None
    counts: dict[str, float] = {}
    """What was dropped, cut or retokenised on the way, and sizes of the data."""
    cost: dict[str, float] = {}
    timing: dict[str, float] = {}
    """Seconds of every stage this cell rests on."""
    provenance: dict[str, Any] = {}

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    @property
    def is_reference(self) -> bool:
        """Whether this is a reference row."""
        return self.method.name in REFERENCE_METHODS

    def essence(self) -> dict[str, Any]:
        """All but cost, timing and provenance: two runs of the same thing agree on this exactly."""
        return self.model_dump(mode="json", by_alias=True, exclude={"cost", "timing", "provenance"})


class RecordError(PladBenchError):
    """A file under cells/ is not a record."""


def parse(text: str, origin: str) -> Record:
    """Read a record, migrating an older schema.

    Raises:
        RecordError: naming the file and the first thing wrong with it.
    """
    try:
        data = json.loads(text, parse_constant=_refuse_constant)
        return Record.model_validate(migrate(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise RecordError(f"{origin}: {where}: {first['msg']}", "Delete the file or restore it from version control.") from None
    except (ValueError, TypeError, RecursionError) as error:
        raise RecordError(f"{origin}: not a record: {error}", "Delete the file or restore it from version control.") from None


def migrate(data: Any) -> Any:
    """Bring a record of an older schema to the present one.

    Raises:
        ValueError: for a schema newer than this version knows.
    """
    if not isinstance(data, dict):
        msg = "not a JSON object"
        raise TypeError(msg)
    if data.get("schema") == 0:  # before the first release `protocol` was called `budget`
        data = {**data, "schema": 1, "protocol": data.get("protocol", data.get("budget", {}))}
        data.pop("budget", None)
    if data.get("schema") != SCHEMA:
        msg = f"schema {data.get('schema')!r} is not known to this version (it knows up to {SCHEMA})"
        raise ValueError(msg)
    return data


def read(path: Path) -> Record:
    """Read one record file."""
    return parse(path.read_text(encoding="utf-8"), path.name)


def dumps(record: Record) -> str:
    """The record as it lies on disk: sorted keys, two spaces, no NaN."""
    return json.dumps(record.model_dump(mode="json", by_alias=True), indent=2, sort_keys=True, allow_nan=False) + "\n"


def write(path: Path, record: Record) -> None:
    """Write a record so that it appears whole or not at all."""
    write_atomically(path, dumps(record).encode())


def summarise(values: np.ndarray) -> tuple[float | None, int, float | None]:
    """(mean, n, standard error) over the values that are not NaN."""
    kept = values[~np.isnan(values)]
    if not kept.size:
        return None, 0, None
    stderr = float(kept.std(ddof=1) / math.sqrt(kept.size)) if kept.size > 1 else None
    return float(kept.mean()), int(kept.size), stderr


def scores_bytes(ids: list[str], columns: dict[str, np.ndarray]) -> bytes:
    """Per-example values as a parquet file: `example` (hash) and a float64 column per metric. No text."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = pa.table({"example": pa.array(ids), **{name: pa.array(columns[name]) for name in sorted(columns)}})
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    return sink.getvalue()


def read_scores(path: Path, sha256: str) -> tuple[list[str], dict[str, np.ndarray]]:
    """Example ids and the columns of a scores file, after checking its hash.

    Raises:
        RecordError: if the file is missing or is not the one the record speaks of.
    """
    import pyarrow.parquet as pq

    remedy = "Restore it from version control, or run the cell again with --rerun all."
    if not path.is_file():
        raise RecordError(f"{path.name}: the per-example scores of the record beside it are missing", remedy)
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != sha256:
        raise RecordError(f"{path.name}: is not the file its record names (the hash differs)", remedy)
    table = pq.read_table(io.BytesIO(data))
    columns = {
        name: table[name].to_numpy().astype(np.float64) for name in table.column_names if name != "example"
    }
    return table["example"].to_pylist(), columns


def slug(text: str) -> str:
    """A name that is safe as one part of a path, on every file system."""
    safe = re.sub(r"[^A-Za-z0-9.=_-]+", "-", text).strip("-.")
    return safe if safe and len(safe) <= 80 else f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def _refuse_constant(name: str) -> None:
    msg = f"{name} is not a JSON number"
    raise ValueError(msg)
