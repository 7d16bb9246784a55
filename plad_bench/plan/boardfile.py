"""board.toml: the settings of a board. They are the defaults for options that a command line leaves out."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from plad_bench.contract import locks
from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import unreadable, unwritable, write_atomically
from plad_bench.contract.protocol import Protocol, checked


class Prices(BaseModel):
    """Prices that convert costs to money."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device_hour: Annotated[float, Field(ge=0)]
    """Price per hour of a GPU or a CPU slot."""
    teacher_million_tokens: Annotated[float, Field(ge=0)] | None = None
    """Price per million tokens of the teacher's responses; if None, their cost is the recorded amount or the device
    time."""
    currency: Annotated[str, Field(max_length=12)] = "USD"

    def of(self, cost: Mapping[str, float]) -> float | None:
        """The cost of one cell in money: training, off-policy samples, teacher outputs; None without training.

        `cost` has the keys of a record's cost. A recorded amount for the teacher's responses takes precedence over
        prices.
        """
        if "train_device_seconds" not in cost:
            return None
        own = ("train_device_seconds", "sample_device_seconds", "signals_device_seconds")
        seconds = sum(cost.get(name, 0.0) for name in own)
        if "teacher_money" in cost:
            text = cost["teacher_money"]
        elif self.teacher_million_tokens is not None:
            text = self.teacher_million_tokens * cost.get("teacher_tokens", 0.0) / 1e6
        else:
            text = self.device_hour * cost.get("teacher_device_seconds", 0.0) / 3600
        return self.device_hour * seconds / 3600 + text

    def so_far(self, cost: Mapping[str, float]) -> float:
        """The cost of a cell in money while its training goes on, with the device time of its updates alone."""
        return self.of({**cost, "train_device_seconds": cost.get("update_device_seconds", 0.0)}) or 0.0


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return checked(values)
    except UsageError as error:
        msg = f"{error.message}. {error.remedy}"
        raise ValueError(msg) from None


Settings = Annotated[dict[str, Any], AfterValidator(_checked)]
"""Validated settings of the protocol."""


class BoardFile(BaseModel):
    """The content of a board.toml. Unknown keys are preserved."""

    model_config = ConfigDict(frozen=True, extra="allow")

    title: str = ""
    """Title of the page; the board's name if empty."""
    metrics: tuple[str, ...] = ()
    """Metrics of the columns, in order; all metrics if empty."""
    primary: str = ""
    """The ranking metric; if empty, the first of `metrics` with a direction."""
    seeds_asked: Annotated[int, Field(ge=0, strict=True)] = 0
    """Number of seeds, 0 to n - 1; if 0, the seeds that any method has completed."""
    notes: str = ""
    docs: Annotated[str, Field(pattern=r"^(https://|(\.\./)*)[\w./-]*$")] = ""
    """Where methods.md and metrics.md are, as a URL or as seen from the board: the page links names to them."""
    prices: Prices | None = None
    """If given, costs are also shown in money."""
    protocol: Settings = {}
    """Protocol settings that all tasks of the board share. Records with other settings are left out."""
    tasks: dict[str, Settings] = {}
    """Protocol settings of individual tasks."""
    commits: dict[str, str] = {}
    """Commits of branches and tags on the hub, "model org/name main" -> commit; all runs of the board use them."""

    versions: dict[str, tuple[str, ...]] = {}
    """Selector of a task, teacher or student that reads local files, without file versions -> selectors with the
    versions that the latest run read. Records of other versions are listed, but not ranked."""

    def conditions(self, task: str) -> dict[str, Any]:
        """The protocol settings that the board fixes for a task, including unsaid ones."""
        said = {**self.protocol, **self.tasks.get(task, {})}
        return {**Protocol.unsaid(), **said} if said else {}


def read(path: Path) -> BoardFile:
    """Read a board.toml; an empty one if the file does not exist.

    Raises:
        UsageError: if the file is invalid.
    """
    remedy = "Correct it, or restore it from version control."
    try:
        board = BoardFile.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return BoardFile()
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where, why = ".".join(str(part) for part in first["loc"]), first["msg"].removeprefix("Value error, ")
        raise UsageError(f"{path.parent.name}/board.toml: {where}: {why}", remedy) from None
    except OSError as error:
        raise unreadable(f"{path.parent.name}/board.toml", error) from None
    except ValueError as error:
        raise UsageError(f"{path.parent.name}/board.toml: {error}", remedy) from None
    for key in board.model_extra or {}:  # unknown keys are preserved, but misspelled ones would have no effect
        if near := get_close_matches(key, BoardFile.model_fields, n=1, cutoff=0.8):
            raise UsageError(f"{path.parent.name}/board.toml: unknown key {key!r}", f"Did you mean {near[0]}?")
    return board


def overrides(board: BoardFile, task: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """The protocol settings for a task: those of the board, and those of the command line.

    Raises:
        UsageError: if the two differ.
    """
    fixed = board.conditions(task)
    given = {name: value for name, value in explicit.items() if value is not None}
    for name, value in given.items():
        if name in fixed and fixed[name] != value:
            place = "/".join(filter(None, (board.title, "board.toml")))
            raise UsageError(
                f"the board fixes {name} = {fixed[name]} ({place}), but the command line sets {value}",
                "Leave the option out, or choose another board with --board.",
            )
    return {**fixed, **given}


@dataclass(frozen=True)
class Contribution:
    """The additions of a run to its board's file.

    Protocols are by task, commits as in `hub.pins`, and versions as in `BoardFile.versions`.
    """

    name: str
    protocols: Mapping[str, Protocol]
    metrics: Sequence[str]
    seeds: int
    commits: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    afresh: bool = False
    """Whether to replace the file instead of extending it."""


def extend(path: Path, run: Contribution) -> BoardFile:
    """Add a run's contribution to a board.toml, under a lock, and return the result.

    Raises:
        UsageError: if another run has since fixed different settings, or the file is invalid.
        MissingError: if the file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with locks.held(path.with_name(f".{path.name}.lock")):
            board = BoardFile() if run.afresh else read(path)
            for task, protocol in run.protocols.items():
                overrides(board, task, asdict(protocol))
            for name, commit in run.commits.items():
                if board.commits.get(name, commit) != commit:
                    raise UsageError(
                        f"the board pins {name} to {board.commits[name]}, but this run resolved it to {commit}",
                        "Run the same command again, or choose another board with --board.",
                    )
            extended = merged(board, run.name, run.protocols, run.metrics, run.seeds, run.commits, run.versions)
            write(path, extended)
            return extended
    except OSError as error:
        raise unwritable(path, error) from error


def merged(  # noqa: PLR0917  the fields of a Contribution
    board: BoardFile,
    name: str,
    protocols: Mapping[str, Protocol],
    metrics: Sequence[str],
    seeds: int,
    commits: Mapping[str, str] | None = None,
    versions: Mapping[str, tuple[str, ...]] | None = None,
) -> BoardFile:
    """The board's file after a run, with its metrics, seeds, tasks and commits added and file versions replaced."""
    tasks = {task: board.conditions(task) for task in board.tasks} | {t: asdict(p) for t, p in protocols.items()}
    shared = board.protocol
    unsaid = Protocol.unsaid()
    if not shared:
        first = next(iter(tasks.values()))
        common = {k: v for k, v in first.items() if all(values.get(k) == v for values in tasks.values())}
        shared = {k: v for k, v in common.items() if k not in unsaid or v != unsaid[k]}
    known = {**unsaid, **shared}
    own = {task: {k: v for k, v in values.items() if known.get(k) != v} for task, values in tasks.items()}
    return board.model_copy(
        update={
            "title": board.title or name,
            "metrics": tuple(dict.fromkeys([*board.metrics, *metrics])),
            "seeds_asked": max(board.seeds_asked, seeds),
            "commits": {**(commits or {}), **board.commits},
            "versions": {**board.versions, **(versions or {})},
            "protocol": shared,
            "tasks": {task: values for task, values in own.items() if values},
        }
    )


def write(path: Path, board: BoardFile) -> None:
    """Write a board.toml if its content differs."""
    values = {
        k: v
        for k, v in board.model_dump(exclude={"tasks"}, exclude_none=True, mode="json").items()
        if v not in ("", [], {})
    }
    tables = {name: value for name, value in values.items() if isinstance(value, dict)}
    tables |= {f"tasks.{_key(task)}": own for task, own in board.tasks.items()}
    lines = [f"{name} = {_toml(value)}" for name, value in values.items() if not isinstance(value, dict)]
    for name, table in tables.items():
        lines += ["", f"[{name}]", *(f"{_key(key)} = {_toml(value)}" for key, value in table.items())]
    text = "\n".join(lines) + "\n"
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_atomically(path, text.encode())


def _toml(value: Any) -> str:
    """Format a value; strings, numbers, booleans and lists of them are the same in TOML and JSON."""
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)
