"""board.toml: the conditions a board was made under, and what ranks. What a command line leaves open comes from it."""

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
    """What turns a board's cost into money."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    device_hour: Annotated[float, Field(ge=0)]
    """Of a GPU, or of a CPU slot."""
    teacher_million_tokens: Annotated[float, Field(ge=0)] | None = None
    """Of the teacher's responses, where they are bought; if None they cost device time, or what a record says."""
    currency: Annotated[str, Field(max_length=12)] = "USD"

    def of(self, cost: Mapping[str, float]) -> float | None:
        """Money for a cell, as if it were alone: training, samples, what the teacher gives; None without training.

        Keys as in a record's cost. What a record says was paid for the teacher's text counts before any price.
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


def _checked(values: dict[str, Any]) -> dict[str, Any]:
    try:
        return checked(values)
    except UsageError as error:
        msg = f"{error.message}. {error.remedy}"
        raise ValueError(msg) from None


Settings = Annotated[dict[str, Any], AfterValidator(_checked)]
"""Some settings of a protocol, each of which it allows."""


class BoardFile(BaseModel):
    """What a board.toml says. Whatever else its owner wrote is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    title: str = ""
    """The board's name if empty."""
    metrics: tuple[str, ...] = ()
    """Names of the columns in order; all the metrics there are if empty."""
    primary: str = ""
    """The metric that ranks; the first of `metrics` that has a direction if empty."""
    seeds_asked: Annotated[int, Field(ge=0, strict=True)] = 0
    """Seeds 0 to n - 1 are asked; if 0, those that any method has done."""
    notes: str = ""
    docs: Annotated[str, Field(pattern=r"^(https://|(\.\./)*)[\w./-]*$")] = ""
    """Where methods.md and metrics.md are, as a URL or as seen from the board: the page links names to them."""
    prices: Prices | None = None
    """If there, costs are shown in money as well."""
    protocol: Settings = {}
    """Protocol values that all tasks of the board share. A record that says otherwise is foreign."""
    tasks: dict[str, Settings] = {}
    """Protocol values that differ from task to task."""
    commits: dict[str, str] = {}
    """What branches and tags on the hub stand for, "model org/name main" -> commit: the same ones for all its runs."""

    versions: dict[str, tuple[str, ...]] = {}
    """Selector of a task, teacher or student that reads local files, without their versions -> with those that the
    latest run read. Records of other versions are listed and not shown."""

    def conditions(self, task: str) -> dict[str, Any]:
        """The protocol values the board fixes for a task, with those that go unsaid."""
        said = {**self.protocol, **self.tasks.get(task, {})}
        return {**Protocol.unsaid(), **said} if said else {}


def read(path: Path) -> BoardFile:
    """Read a board.toml; one that fixes nothing if there is none.

    Raises:
        UsageError: naming what is wrong with it.
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
    for key in board.model_extra or {}:  # what its owner adds is kept, what is mistyped would do nothing
        if near := get_close_matches(key, BoardFile.model_fields, n=1, cutoff=0.8):
            raise UsageError(f"{path.parent.name}/board.toml: unknown key {key!r}", f"Did you mean {near[0]}?")
    return board


def overrides(board: BoardFile, task: str, explicit: Mapping[str, Any]) -> dict[str, Any]:
    """Protocol values for a task: those set on the command line, else those the board fixes.

    Raises:
        UsageError: if the two contradict each other; both are shown.
    """
    fixed = board.conditions(task)
    given = {name: value for name, value in explicit.items() if value is not None}
    for name, value in given.items():
        if name in fixed and fixed[name] != value:
            place = "/".join(filter(None, (board.title, "board.toml")))
            raise UsageError(
                f"the board fixes {name} = {fixed[name]} ({place}), the command line says {value}",
                "Leave the option out, or choose another board with --board.",
            )
    return {**fixed, **given}


@dataclass(frozen=True)
class Contribution:
    """What a run adds to its board's file.

    Protocols by task, metrics, seeds, commits as `hub.pins` gives them, and versions as `BoardFile.versions` has them.
    """

    name: str
    protocols: Mapping[str, Protocol]
    metrics: Sequence[str]
    seeds: int
    commits: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    afresh: bool = False
    """The file says what this run says, whatever it said before."""


def extend(path: Path, run: Contribution) -> BoardFile:
    """Add to a board.toml, as it is at that moment, what a run brings; other runs wait so long. Returns what it says.

    Raises:
        UsageError: if another run has fixed something else since this one read the file, or the file is damaged.
        MissingError: if it cannot be written.
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
                        f"the board takes {name} for {board.commits[name]}, and this run for {commit}",
                        "Run the same command again, or choose another board with --board.",
                    )
            extended = merged(board, run.name, run.protocols, run.metrics, run.seeds, run.commits, run.versions)
            write(path, extended)
            return extended
    except OSError as error:
        raise unwritable(path, error) from error


def merged(  # noqa: PLR0917  what a Contribution has
    board: BoardFile,
    name: str,
    protocols: Mapping[str, Protocol],
    metrics: Sequence[str],
    seeds: int,
    commits: Mapping[str, str] | None = None,
    versions: Mapping[str, tuple[str, ...]] | None = None,
) -> BoardFile:
    """What the board's file says after a run: metrics, seeds, tasks and commits grow, and files have new versions."""
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
    """Write a board.toml, unless it says just that already."""
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
    """Strings, numbers, booleans and lists of them read the same in TOML as in JSON."""
    return json.dumps(value, ensure_ascii=False)


def _key(name: str) -> str:
    return name if name.replace("-", "").replace("_", "").isalnum() else json.dumps(name)
