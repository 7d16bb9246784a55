"""Selects the valid records of a board: intact, at their own path, and made under its conditions.

A corrupt, foreign or edited record is listed among the problems and left out; it never stops a board.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from plad_bench.contract.protocol import Protocol
from plad_bench.records import migration, schema, storage
from plad_bench.records.schema import Record
from plad_bench.records.storage import RecordError
from plad_bench.records.text import clean

Array: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True)
class Problem:
    """A file that was left out."""

    file: str
    reason: str


@dataclass(frozen=True)
class LoadedRecord:
    """A record that counts, and its location."""

    file: str
    record: Record
    directory: Path
    group: str
    """Identity of task, teacher and student."""
    method: str
    """Identity of the method with everything that is resolved."""
    scores: Mapping[str, Array] = field(default_factory=dict)
    ids: schema.Ids = ()

    @classmethod
    def of(cls, path: Path, file: str) -> LoadedRecord:
        """The cell of a record file.

        Raises:
            RecordError: if the file is not a valid record.
        """
        r = storage.read(path)
        pairs = [r.pairs.name, r.pairs.params, r.pairs.version] if r.pairs else None
        try:
            parts = [[part.name, part.params, part.version] for part in (r.task, r.teacher, r.student)]
            group = canonical([*parts, *([r.task.data_version] if r.task.data_version > 1 else [])])
            method = canonical([r.method.name, r.method.params, r.method.version, r.method.lr, pairs])
        except (ValueError, RecursionError):
            raise RecordError(f"{path.name}: has parameters that are nested too deep") from None
        return cls(file, r, path.parent, group, method)

    @property
    def identity(self) -> str:
        """Equal on all boards: without a learning rate that its board shares, and without tuned values."""
        r = self.record
        pairs = [r.pairs.name, r.pairs.params, r.pairs.version] if r.pairs else None
        rate = None if r.method.lr_shared or r.tuning else r.method.lr
        searched = r.tuning.space if r.tuning else {}
        params = {name: value for name, value in r.method.params.items() if name not in searched}
        return canonical([r.method.name, params, r.method.version, rate, pairs])


Complain = Callable[[LoadedRecord, str], None]


def found(root: Path, problems: list[Problem]) -> Iterable[LoadedRecord]:
    """Every valid record below a directory that is at its own path."""
    for path in sorted(root.glob("**/*.json")):
        place = path.relative_to(root).as_posix()
        file = clean(place, 1000)
        try:
            cell = LoadedRecord.of(path, file)
        except RecordError as error:
            problems.append(Problem(file, clean(error.message.removeprefix(f"{path.name}: "), 1000)))
            continue
        said = re.search(r"/seed-(\d+)$", cell.record.cell)
        if place != f"{cell.record.cell}.json" and migration.moved(place) != f"{cell.record.cell}.json":
            problems.append(Problem(file, f"belongs to cell {cell.record.cell}"))
        elif said and int(said[1]) != cell.record.seed:
            problems.append(Problem(file, f"was edited: its seed is {cell.record.seed}"))
        else:
            yield cell


def consistent(
    cells: Iterable[LoadedRecord], conditions: Callable[[str], Mapping[str, Any]], complain: Complain
) -> list[LoadedRecord]:
    """The cells made under the board's conditions, one for each method and seed.

    `conditions` maps a task to the settings that the board fixes; without any, the most frequent protocol counts.
    """
    cells = list(cells)
    protocols: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        if cell.record.status == "done":
            protocols[cell.record.task.name][canonical(cell.record.protocol)] += 1
    usual = {task: json.loads(max(counts, key=lambda p: (counts[p], p))) for task, counts in protocols.items()}
    fixed = {task: conditions(task) or usual.get(task, {}) for task in {cell.record.task.name for cell in cells}}
    same: dict[tuple[str, str, int, bool], list[LoadedRecord]] = defaultdict(list)
    for cell in cells:
        record = cell.record
        trial = record.status == "trial"
        said = {**Protocol.unsaid(), **record.protocol}
        wrong = [
            f"{key} is {said.get(key)!r}, not {value!r}"
            for key, value in fixed[record.task.name].items()
            if said.get(key) != value
        ]
        if wrong and not trial:
            complain(cell, f"was made under another protocol: {', '.join(wrong)}")
        else:
            same[cell.group, cell.method, record.seed, trial].append(cell)
    kept = [cell for several in same.values() for cell in _alone(several, "the same method and seed", complain)]
    copies: dict[object, list[LoadedRecord]] = defaultdict(list)
    for cell in kept:
        scores = cell.record.scores
        own = cell.file if scores is None or cell.record.is_baseline else (cell.record.key, scores.sha256)
        copies[cell.group, own].append(cell)
    return [cell for several in copies.values() for cell in _alone(several, "the same key and scores", complain)]


def _alone(cells: list[LoadedRecord], reason: str, complain: Complain) -> list[LoadedRecord]:
    """The cells, if there is only one. Of several, none can be trusted."""
    if len(cells) == 1:
        return cells
    for cell in cells:
        others = ", ".join(other.file for other in cells if other is not cell)
        complain(cell, f"conflicts with {clean(others, 1000)}: {reason}")
    return []


def with_scores(cells: Iterable[LoadedRecord], complain: Complain) -> list[LoadedRecord]:
    """Done cells with verified scores, on the prompts that most of them share, in one order.

    The own examples of metrics come from any cell, and are NaN for cells without them.
    """
    read: list[LoadedRecord] = []
    for cell in cells:
        try:
            read.append(scored(cell))
        except RecordError as error:
            complain(cell, error.message)
    sets = {ids: frozenset(filter(storage.is_prompt, ids)) for ids in {cell.ids for cell in read}}
    counts = Counter(sets[cell.ids] for cell in read)
    if not counts:
        return []
    usual = max(counts, key=lambda examples: (counts[examples], sorted(examples)))
    orders = Counter(cell.ids for cell in read if sets[cell.ids] == usual)
    order = max(orders, key=lambda ids: (orders[ids], ids))
    others = {example for ids in orders for example in ids} - set(order)
    order = (*order, *sorted(others))
    kept = []
    for cell in read:
        if cell.ids in orders:
            kept.append(aligned(cell, order))
        else:
            n = len(sets[cell.ids] & usual)
            complain(cell, f"was scored on other examples: it shares {n} of the {len(usual)} examples of the others")
    return kept


def aligned(cell: LoadedRecord, order: tuple[str, ...]) -> LoadedRecord:
    """The same cell with its examples in another order, and NaN for missing ones."""
    if cell.ids == order:
        return cell
    place = {example: k for k, example in enumerate(cell.ids)}
    index = [place.get(example, len(place)) for example in order]  # beyond the last is the appended NaN
    scores = {name: np.append(values, np.nan)[index] for name, values in cell.scores.items()}
    return replace(cell, scores=scores, ids=order)


def matrix(cells: Sequence[LoadedRecord], metric: str) -> Array:
    """Scores [S, E] of a metric that every cell has, on the prompts or on the metric's own examples."""
    rows = _rows(cells[0].ids, re.split(r"[\[ ]", metric)[0])
    return np.array([cell.scores[metric][rows] for cell in cells])  # faster than np.stack


@lru_cache(maxsize=256)
def _rows(ids: tuple[str, ...], metric: str) -> NDArray[np.intp]:
    own = [k for k, example in enumerate(ids) if example.startswith(f"{metric}:")]
    return np.array(own or [k for k, example in enumerate(ids) if storage.is_prompt(example)], dtype=np.intp)


def scored(cell: LoadedRecord) -> LoadedRecord:
    """A done cell with its scores, after checking that the values of its record are their means.

    Raises:
        RecordError: if they are not, or the scores are missing.
    """
    record = cell.record
    if record.scores is None:
        raise RecordError("is done but names no scores file")
    ids, scores = storage.read_scores(cell.directory / record.scores.file, record.scores.sha256, record.scores.examples)
    if absent := sorted(record.metrics.keys() - scores.keys()):
        raise RecordError(f"{record.scores.file}: has no column {absent[0]}")
    for (name, metric), (value, n, stderr) in zip(record.metrics.items(), _summaries(record, scores), strict=True):
        if n != metric.n or not _close(metric.value, value):
            raise RecordError(f"was edited: {name} is {metric.value} over {metric.n}; by its scores {value} over {n}")
        if not _close(metric.stderr, stderr, scale=abs(value or 0.0)):
            raise RecordError(f"was edited: the error of {name} is {metric.stderr}; by its scores {stderr}")
    return replace(cell, scores=scores, ids=ids)


def _summaries(record: Record, scores: Mapping[str, Array]) -> Iterable[tuple[float | None, int, float | None]]:
    """Mean, count and standard error of the scores of each metric of a record, in its order; see storage.summarise."""
    if not record.metrics:
        return ()
    values = np.array([scores[name] for name in record.metrics])
    there = ~np.isnan(values)
    n = there.sum(axis=1)
    mean = np.where(there, values, 0.0).sum(axis=1) / np.maximum(n, 1)
    deviation = np.where(there, values - mean[:, None], 0.0)
    stderr = np.sqrt(np.einsum("me,me->m", deviation, deviation) / np.maximum(n - 1, 1) / np.maximum(n, 1))
    each = zip(mean.tolist(), n.tolist(), stderr.tolist(), strict=True)
    return [(m if k else None, k, e if k > 1 else None) for m, k, e in each]


def _close(a: float | None, b: float | None, scale: float = 0.0) -> bool:
    """Whether two numbers are equal up to the rounding of numbers of a scale."""
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12 * max(scale, 1.0))


def canonical(value: Any) -> str:
    """JSON that is equal for equal values."""
    return json.dumps(value, sort_keys=True)
