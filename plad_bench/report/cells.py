"""Which records of a board count: those that are whole, lie where they say, and were made under its conditions.

A record that is corrupt, foreign or edited is named among the problems and left out; it never stops a board.
"""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from plad_bench.contract.records import Protocol
from plad_bench.report import results
from plad_bench.report.results import Record, RecordError
from plad_bench.report.stats import Array


@dataclass(frozen=True)
class Problem:
    """A file that was left out."""

    file: str
    reason: str


@dataclass(frozen=True)
class Cell:
    """A record that is used, and where it was found."""

    file: str
    record: Record
    directory: Path
    scores: Mapping[str, Array] = field(default_factory=dict)
    ids: tuple[str, ...] = ()

    @cached_property
    def group(self) -> str:
        """Identity of task, teacher and student."""
        r = self.record
        return canonical([[part.name, part.params, part.version] for part in (r.task, r.teacher, r.student)])

    @cached_property
    def method(self) -> str:
        """Identity of the method: everything of it that is resolved."""
        r = self.record
        pairs = [r.pairs.name, r.pairs.params, r.pairs.version] if r.pairs else None
        return canonical([r.method.name, r.method.params, r.method.version, r.method.lr, pairs])

    @cached_property
    def identity(self) -> str:
        """The same for all boards: without a learning rate that its board shares."""
        r = self.record
        pairs = [r.pairs.name, r.pairs.params, r.pairs.version] if r.pairs else None
        rate = None if r.method.lr_shared else r.method.lr
        return canonical([r.method.name, r.method.params, r.method.version, rate, pairs])


Complain = Callable[[Cell, str], None]


def found(root: Path, problems: list[Problem]) -> Iterable[Cell]:
    """Every record below a directory that is one and lies where it says."""
    for path in sorted(root.glob("**/*.json")):
        file = path.relative_to(root).as_posix()
        try:
            record = results.read(path)
            cell = Cell(file, record, path.parent)
            _ = cell.group, cell.method
        except RecordError as error:
            problems.append(Problem(file, error.message.removeprefix(f"{path.name}: ")))
        except (ValueError, RecursionError):
            problems.append(Problem(file, "has parameters that are nested too deep"))
        else:
            if file == f"{record.cell}.json":
                yield cell
            else:
                problems.append(Problem(file, f"says that it is cell {record.cell}"))


def consistent(cells: Iterable[Cell], conditions: Callable[[str], Mapping[str, Any]], complain: Complain) -> list[Cell]:
    """Those made under the board's conditions, and one for each method and seed.

    `conditions` maps the name of a task to what the board fixes; where that is nothing, the commonest protocol counts.
    """
    cells = list(cells)
    protocols: dict[str, Counter[str]] = defaultdict(Counter)
    for cell in cells:
        if cell.record.status == "done":
            protocols[cell.record.task.name][canonical(cell.record.protocol)] += 1
    usual = {task: json.loads(max(counts, key=lambda p: (counts[p], p))) for task, counts in protocols.items()}
    same: dict[tuple[str, str, int, bool], list[Cell]] = defaultdict(list)
    for cell in cells:
        record = cell.record
        trial = record.status == "trial"
        said = {**Protocol.unsaid(), **record.protocol}
        wrong = [
            f"{key} is {said.get(key)!r}, not {value!r}"
            for key, value in (conditions(record.task.name) or usual.get(record.task.name, {})).items()
            if said.get(key) != value
        ]
        if wrong and not trial:
            complain(cell, f"was made under another protocol: {', '.join(wrong)}")
        else:
            same[cell.group, cell.method, record.seed, trial].append(cell)
    kept = []
    for several in same.values():
        if len(several) == 1:
            kept += several
        else:
            for cell in several:
                others = ", ".join(other.file for other in several if other is not cell)
                complain(cell, f"conflicts with {others}: the same method and seed")
    return kept


def with_scores(cells: Iterable[Cell], complain: Complain) -> list[Cell]:
    """Done cells with their verified scores, on the examples that most of them share, in one order."""
    read: list[Cell] = []
    interned: dict[tuple[str, ...], tuple[str, ...]] = {}
    for cell in cells:
        try:
            with_own = scored(cell)
        except RecordError as error:
            complain(cell, error.message)
            continue
        read.append(replace(with_own, ids=interned.setdefault(with_own.ids, with_own.ids)))
    sets = {ids: frozenset(ids) for ids in interned}
    counts = Counter(sets[cell.ids] for cell in read)
    if not counts:
        return []
    usual = max(counts, key=lambda examples: (counts[examples], sorted(examples)))
    orders = Counter(cell.ids for cell in read if sets[cell.ids] == usual)
    order = max(orders, key=lambda ids: (orders[ids], ids))
    kept = []
    for cell in read:
        if cell.ids in orders:
            kept.append(aligned(cell, order))
        else:
            n = len(sets[cell.ids] & usual)
            complain(cell, f"was scored on other examples: shares {n} of the {len(usual)} that the others have")
    return kept


def aligned(cell: Cell, order: tuple[str, ...]) -> Cell:
    """The same cell with its examples in another order."""
    if cell.ids == order:
        return cell
    place = {example: k for k, example in enumerate(cell.ids)}
    index = [place[example] for example in order]
    return replace(cell, scores={name: v[index] for name, v in cell.scores.items()}, ids=order)


def scored(cell: Cell) -> Cell:
    """A done cell with its scores, which the values in its record must be the means of.

    Raises:
        RecordError: if they are not, or are not there.
    """
    record = cell.record
    if record.scores is None:
        raise RecordError("is done but names no scores")
    ids, scores = results.read_scores(cell.directory / record.scores.file, record.scores.sha256, record.scores.examples)
    for name, metric in record.metrics.items():
        if name not in scores:
            raise RecordError(f"{record.scores.file}: has no column {name}")
        present = scores[name][~np.isnan(scores[name])]
        value, n = (float(present.mean()) if present.size else None), present.size
        if n != metric.n or not _close(metric.value, value):
            raise RecordError(f"was edited: {name} is {metric.value} over {metric.n}, its scores give {value} over {n}")
    return replace(cell, scores=scores, ids=tuple(ids))


def _close(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)


def canonical(value: Any) -> str:
    """JSON that is the same for equal values."""
    return json.dumps(value, sort_keys=True)
