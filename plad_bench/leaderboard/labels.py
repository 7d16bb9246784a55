"""Labels of the methods of a board."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

from plad_bench.records.schema import Record
from plad_bench.records.validation import LoadedRecord, canonical


def labels(cells: Iterable[LoadedRecord]) -> dict[str, str]:
    """The label of each method: as the user wrote it, with the values that distinguish it from an equal label."""
    typed: dict[str, list[Record]] = defaultdict(list)
    for cell in cells:
        typed[cell.method].append(cell.record)
    chosen = {key: min(of, key=lambda r: (len(r.method.selector), r.method.selector)) for key, of in typed.items()}
    counts = Counter(record.method.selector for record in chosen.values())
    return {
        key: record.method.selector
        if counts[record.method.selector] == 1
        else _distinct(record, [r for r in chosen.values() if r.method.selector == record.method.selector])
        for key, record in chosen.items()
    }


def _distinct(record: Record, namesakes: Sequence[Record]) -> str:
    def parts(r: Record) -> dict[str, Any]:
        pairs = {"pairs": r.pairs and r.pairs.name, "pairs version": r.pairs and r.pairs.version}
        settings = {f"pairs {name}": value for name, value in (r.pairs.params if r.pairs else {}).items()}
        return {**r.method.params, "lr": r.method.lr, "version": r.method.version, **pairs, **settings}

    mine, all_parts = parts(record), [parts(r) for r in namesakes]
    differing = [
        name
        for name in sorted({n for p in all_parts for n in p})
        if len({canonical(p.get(name)) for p in all_parts}) > 1
    ]
    return f"{record.method.selector} ({', '.join(f'{name}={mine.get(name)}' for name in differing)})"
