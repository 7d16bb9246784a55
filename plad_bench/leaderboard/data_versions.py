"""Separates records of a board's newest data from those of older files and versions, which are listed, not shown.

A run writes into board.toml which versions of local files it read (`[versions]`). Among records whose task, teacher
and student differ only in such versions, those of the latest run count, and of those the ones with the highest version
of data and components. If board.toml has no entry for a file, all its versions count.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from plad_bench.contract.names import unversioned
from plad_bench.records.schema import Named, Record
from plad_bench.records.validation import LoadedRecord

Latest = Mapping[str, Sequence[str]]
"""Selector without the versions of local files -> selectors with the versions that the latest run read."""


def newest(cells: Iterable[LoadedRecord], latest: Latest) -> tuple[list[LoadedRecord], list[LoadedRecord]]:
    """Split cells into those of the newest version and older ones, each in their order."""
    cells = list(cells)
    highest: dict[tuple[str, ...], tuple[int, ...]] = defaultdict(tuple)
    for cell in cells:
        highest[_selectors(cell)] = max(highest[_selectors(cell)], _versions(cell))
    split: tuple[list[LoadedRecord], list[LoadedRecord]] = ([], [])
    for cell in cells:
        is_latest = all(_is_latest(part, latest) for part in _parts(cell.record))
        split[not (is_latest and _versions(cell) == highest[_selectors(cell)])].append(cell)
    return split


def described(older: Iterable[LoadedRecord], latest: Latest) -> dict[str, int]:
    """Description of the older data -> number of cells."""
    return dict(sorted(Counter(_description(cell.record, latest) for cell in older).items()))


def _description(record: Record, latest: Latest) -> str:
    old = [part.selector for part in _parts(record) if not _is_latest(part, latest)]
    return ", ".join(dict.fromkeys(old)) or f"{record.task.selector}, data version {record.task.data_version}"


def _is_latest(part: Named, latest: Latest) -> bool:
    series = unversioned(part.selector, part.params)
    return series not in latest or part.selector in latest[series]


def _parts(record: Record) -> tuple[Named, Named, Named]:
    return record.task, record.teacher, record.student


def _selectors(cell: LoadedRecord) -> tuple[str, ...]:
    return tuple(part.selector for part in _parts(cell.record))


def _versions(cell: LoadedRecord) -> tuple[int, ...]:
    return cell.record.task.data_version, *(part.version for part in _parts(cell.record))
