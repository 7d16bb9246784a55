"""board.toml: the conditions a board was made under. What the command line leaves open is taken from it."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import write_atomically
from plad_bench.contract.records import Protocol


@dataclass(frozen=True)
class BoardFile:
    """What a board.toml says."""

    title: str = ""
    metrics: tuple[str, ...] = ()
    seeds_asked: int = 0
    protocol: Mapping[str, Any] = field(default_factory=dict)
    """Protocol values that all tasks of the board share."""
    tasks: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Protocol values that differ from task to task."""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else its owner wrote; kept."""

    def values(self, task: str) -> dict[str, Any]:
        """The protocol values the board fixes for a task."""
        return {**self.protocol, **self.tasks.get(task, {})}


def read(path: Path) -> BoardFile | None:
    """Read a board.toml; None if there is none.

    Raises:
        UsageError: if it is not TOML, or a value has the wrong form.
    """
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        known = {
            name: data.pop(name) for name in ("title", "metrics", "seeds_asked", "protocol", "tasks") if name in data
        }
        return BoardFile(**{**known, "metrics": tuple(known.get("metrics", ()))}, extra=data)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(f"cannot read {path.name} of board {path.parent.name}: {error}", "Correct it.") from None


def overrides(board: BoardFile | None, task: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol values for a task: those set on the command line, else those the board fixes.

    Raises:
        UsageError: if the two contradict each other; both are shown.
    """
    fixed = board.values(task) if board else {}
    given = {name: value for name, value in explicit.items() if value is not None}
    for name, value in given.items():
        if name in fixed and fixed[name] != value:
            raise UsageError(
                f"the board fixes {name} = {fixed[name]} (board.toml), the command line says {value}",
                "Leave the option out, or choose another board with --board.",
            )
    return {**fixed, **given}


def merged(
    board: BoardFile | None, name: str, protocols: Mapping[str, Protocol], metrics: Sequence[str], seeds: int
) -> BoardFile:
    """The board's file after a run under these protocols, by task: metrics and seeds grow, nothing else changes."""
    old = board or BoardFile(title=name)
    tasks = {task: old.values(task) for task in old.tasks} | {task: asdict(p) for task, p in protocols.items()}
    if not old.tasks and old.protocol and len(protocols) == 1:
        tasks = {task: {**old.protocol, **values} for task, values in tasks.items()}
    shared = dict(old.protocol)
    if not shared:
        first = next(iter(tasks.values()))
        shared = {k: v for k, v in first.items() if all(values.get(k) == v for values in tasks.values())}
    own = {task: {k: v for k, v in values.items() if shared.get(k) != v} for task, values in tasks.items()}
    return BoardFile(
        title=old.title,
        metrics=tuple(dict.fromkeys([*old.metrics, *metrics])),
        seeds_asked=max(old.seeds_asked, seeds),
        protocol=shared,
        tasks={task: values for task, values in own.items() if values},
        extra=old.extra,
    )


def write(path: Path, board: BoardFile) -> None:
    """Write a board.toml."""
    tables: list[tuple[str, Mapping[str, Any]]] = [
        (name, value) for name, value in board.extra.items() if isinstance(value, dict)
    ]
    lines = [f"title = {_toml(board.title)}"]
    lines += [f"{name} = {_toml(value)}" for name, value in board.extra.items() if not isinstance(value, dict)]
    lines += [
        f"metrics = {_toml(list(board.metrics))}  # the first one ranks",
        f"seeds_asked = {board.seeds_asked}",
    ]
    tables += [("protocol", board.protocol), *((f"tasks.{_key(task)}", values) for task, values in board.tasks.items())]
    for name, values in tables:
        lines += ["", f"[{name}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    text = "\n".join(lines) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text.encode())


def _toml(value: Any) -> str:
    """Strings, numbers, booleans and lists of them read the same in TOML as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)
