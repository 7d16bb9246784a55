"""Migrates records and boards of older versions: renames inside records, and of their files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plad_bench.contract.files import write_atomically
from plad_bench.contract.renamed import COSTS, COUNTS, METRICS, STAGES, present


def renamed(data: Mapping[str, Any]) -> dict[str, Any]:
    """A record of schema 1 as one of schema 2, which uses the field's names."""
    data = {
        **data,
        "schema": 2,
        "protocol": present(protocol) if isinstance(protocol := data.get("protocol"), dict) else protocol,
    }
    method = _table(data, "method")
    if method.get("name") in STAGES:
        new = STAGES[method["name"]]
        data["method"] = {**method, "name": new, "selector": new}
        data["cell"] = moved(str(data.get("cell", "")))
    for key, names in (("metrics", METRICS), ("absent", METRICS), ("cost", COSTS), ("timing", STAGES)):
        if isinstance(data.get(key), dict):
            data[key] = {names.get(name, name): value for name, value in _table(data, key).items()}
    if isinstance(data.get("counts"), dict):
        data["counts"] = {_count(name): value for name, value in _table(data, "counts").items()}
    return data


def moved(place: str) -> str:
    """The present path of a record with that path, or of a file beside it."""
    parts = place.split("/")
    if len(parts) > 1:
        parts[-2] = STAGES.get(parts[-2], parts[-2])
    return "/".join(parts)


def migrate(board: Path) -> int:
    """Rewrite the records of schema 1 below a board's cells/ in place, with their files; return their number.

    Other files, and unreadable records, stay unchanged.
    """
    count = 0
    if not any(next((board / "cells").glob(f"**/{row}"), None) for row in STAGES):  # a complete board has that row
        return 0
    for path in sorted((board / "cells").glob("**/*.json")):
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(data, dict) or data.get("schema") != 1:
            continue
        text = json.dumps(renamed(data), indent=2, sort_keys=True, allow_nan=False) + "\n"
        new = board / "cells" / moved(path.relative_to(board / "cells").as_posix())
        new.parent.mkdir(parents=True, exist_ok=True)
        for beside in path.parent.glob(f"{path.stem}.*") if new != path else ():
            if beside != path:
                beside.replace(new.parent / beside.name)
        write_atomically(new, text.encode())
        if new != path:
            path.unlink()
            if not any(path.parent.iterdir()):
                path.parent.rmdir()
        count += 1
    return count


def _count(name: str) -> str:
    """A count such as generate.unfinished, or warmup.truncated_sequences."""
    stage, _, what = name.rpartition(".")
    return ".".join(filter(None, (STAGES.get(stage, stage), COUNTS.get(what, what))))


def _table(data: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
