"""Typed parameters of components, and their representation on the command line and in keys."""

from __future__ import annotations

import ast
import functools
import hashlib
import inspect
import itertools
import textwrap
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from plad_bench.contract.files import unreadable

Search: TypeAlias = tuple[float, float] | tuple[float, float, Literal["log"]]
"""The lowest and the highest value to try."""


class Params(BaseModel):
    """Base class for the parameters of components. Instances are immutable, and values and names are validated.

    Declare fields with `param`, with a docstring below each field::

        class KDParams(Params):
            temperature: float = param(1.0, gt=0, source="arXiv:1503.02531")
            \"\"\"Softmax temperature of both distributions.\"\"\"
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any, info: ValidationInfo) -> Any:
        """Refuse an empty path, which would be the working directory."""
        local = info.field_name and _extra(cls.model_fields[info.field_name]).get("local")
        if local and isinstance(value, str) and not value.strip():
            msg = "the path is empty"
            raise ValueError(msg)
        return value

    def public(self) -> dict[str, Any]:
        """The parameters as JSON values, for keys and records.

        A local path is replaced by the hash of its content, and a private value by its hash. Parameters that do not
        affect results are omitted, and so are unsaid parameters with their default value.
        """
        values: dict[str, Any] = self.model_dump(mode="json")
        for name, info in type(self).model_fields.items():
            value, extra = getattr(self, name), _extra(info)
            if not extra.get("keyed", True) or (extra.get("unsaid") and value == info.default):
                del values[name]
            elif extra.get("local") and value is not None:
                values[name] = content_hash(Path(value))
            elif extra.get("private"):
                values[name] = text_hash(str(value))
        return values


def param(
    default: Any,
    *,
    source: str = "",
    local: bool = False,
    private: bool = False,
    keyed: bool = True,
    unsaid: bool = False,
    search: Search | None = None,
    **bounds: Any,
) -> Any:
    """Declare a parameter with its default, the source of the default, and its range.

    Args:
        default: default value.
        source: the paper that gives the default, or "ours" or "unknown". Shown in docs/methods.md.
        local: the value is a path on this machine. Keys and records contain the hash of its content instead.
        private: the value is confidential, such as a host name. Keys and records contain its hash instead.
        keyed: False if the parameter does not affect results, such as timeouts and prices.
        unsaid: True for a parameter that was added to a component with existing results. Keys and records omit it if it
            has its default value, so that they do not change.
        search: the lowest and the highest value that `--tune` tries, and "log" after them for a logarithmic scale. The
            default lies between them. Without it, `--tune` keeps the default.
        bounds: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`, ...
    """
    extra: dict[str, Any] = {"source": source, "local": local, "private": private, "keyed": keyed, "unsaid": unsaid}
    extra |= {"search": list(search)} if search else {}
    return Field(default, json_schema_extra=extra, **bounds)


class MethodParams(Params):
    """Base class for the parameters of methods."""

    lr: float = param(0.0, ge=0, source="ours")
    """Peak learning rate; 0 uses the board's, which all methods share."""
    rounds: int = param(1, ge=1, le=100, source="ours", unsaid=True)
    """Equal parts of the training, each on new off-policy samples of the student as it is at the start of the part."""


class PairParams(Params):
    """Base class for the parameters of pair builders. The harness filters pairs by these parameters."""

    scorer: str = param("", source="ours", unsaid=True)
    """Selector of the metric that scores responses, for `margin` and for builders that order by score."""
    margin: float | None = param(None, ge=0, source="ours", unsaid=True)
    """Drop pairs whose scores are equal or differ by less than this, in the scorer's unit (percentages: 0 to 1)."""
    max_ratio: float | None = param(None, ge=1, source="ours", unsaid=True)
    """Drop pairs if one response has more than this many times as many words as the other."""
    min_words: int = param(0, ge=0, source="ours", unsaid=True)
    """Drop pairs if a response has fewer words."""
    max_words: int | None = param(None, ge=1, source="ours", unsaid=True)
    """Drop pairs if a response has more words."""
    keep_identical: bool = param(False, source="ours", unsaid=True)
    """Keep pairs whose responses are identical except for white space."""
    per_prompt: int = param(0, ge=0, source="ours", unsaid=True)
    """Maximum number of pairs per prompt; 0 keeps all. Each step trains on one of them, drawn at random."""


class TaskParams(Params):
    """Parameters that all tasks share; `Task` adds them to the parameters of a plugin's task."""

    near_duplicates: Literal["report", "drop"] = param("report", source="ours", unsaid=True)
    """Handling of prompts that are near-duplicates of evaluated prompts: `report` counts them, `drop` removes them."""


def descriptions(params: type[Params]) -> dict[str, str]:
    """What each field means, by the field's name: the docstring below it; empty if there is none.

    Docstrings are read from the source here, and not by pydantic's `use_attribute_docstrings`, which would parse the
    class of every component whenever a command starts.
    """
    below: dict[str, str] = {}
    for of in reversed(params.__mro__):
        try:
            (definition,) = ast.parse(textwrap.dedent(inspect.getsource(of))).body
        except (OSError, TypeError):  # made without source, as `Task` makes the class of a task's parameters
            continue
        for node, following in itertools.pairwise([*getattr(definition, "body", ()), ast.Pass()]):
            match node, following:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    below[name] = inspect.cleandoc(text)
                case ast.AnnAssign(target=ast.Name(id=name)), _:
                    below[name] = ""
    return {name: info.description or below.get(name, "") for name, info in params.model_fields.items()}


def source_of(params: type[Params], name: str) -> str:
    """The source of a parameter's default; empty if not given."""
    return str(_extra(params.model_fields[name]).get("source", ""))


def search_of(params: type[Params], name: str) -> Search | None:
    """The range that tuning searches; None where a parameter declares none."""
    declared = _extra(params.model_fields[name]).get("search")
    return tuple(declared) if declared else None


def _extra(info: Any) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def text_hash(text: str) -> str:
    """sha256 of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def content_hash(path: Path) -> str:
    """sha256 of the names and contents of a file or of all files in a directory; "absent" if it does not exist.

    Raises:
        MissingError: if a file cannot be read.
    """
    if not path.exists():
        return "absent"
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    digest = hashlib.sha256()
    for file in files:
        name = file.name if file == path else file.relative_to(path).as_posix()
        try:
            found = file.stat()
            digest.update(f"{name}\0{_file_hash(file.absolute(), found.st_size, found.st_mtime_ns)}\n".encode())
        except OSError as error:
            raise unreadable(name, error) from error
    return f"sha256:{digest.hexdigest()}"


@functools.lru_cache(maxsize=65536)
def _file_hash(file: Path, size: int, modified: int) -> str:
    """sha256 of a file, cached as long as its size and modification time (ns) are the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
