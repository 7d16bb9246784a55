"""Typed parameters of a component, and how they read on the command line and in a key."""

from __future__ import annotations

import functools
import hashlib
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from plad_bench.contract.files import unreadable


class Params(BaseModel):
    """Base of every component's parameters: immutable, ranges checked, unknown names refused.

    Declare fields with `param`; the text below a field documents it::

        class KDParams(Params):
            temperature: float = param(1.0, gt=0, source="arXiv:1503.02531")
            \"\"\"Softmax temperature of both distributions.\"\"\"
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True, use_attribute_docstrings=True
    )

    @field_validator("*", mode="before")
    @classmethod
    def _no_empty_path(cls, value: Any, info: ValidationInfo) -> Any:
        """An empty path would be the working directory."""
        local = info.field_name and _extra(cls.model_fields[info.field_name]).get("local")
        if local and isinstance(value, str) and not value.strip():
            msg = "the path is empty"
            raise ValueError(msg)
        return value

    def public(self) -> dict[str, Any]:
        """The parameters as JSON values, as keys and records see them.

        A local path is replaced by the hash of what it holds and a private value by its own hash. What changes no
        result is left out, and so is an unsaid parameter at its default.
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
    **bounds: Any,
) -> Any:
    """A parameter with its default, where that default comes from, and its range.

    Args:
        default: the value when nothing is given.
        source: the paper, or "ours"/"unknown" when no paper gives it. Shown in docs/methods.md.
        local: the value is a path on this machine. Keys and records hold the hash of its content instead.
        private: others must not read the value, such as a host name. Keys and records hold its hash instead.
        keyed: False for what changes how a result is come by and never the result: speed, patience, prices.
        unsaid: True for a parameter that was added to a component which has results already: keys and records leave it
            out while it has its default, so that they stay what they were.
        bounds: pydantic's `ge`, `gt`, `le`, `lt`, `min_length`, ...
    """
    extra: dict[str, Any] = {"source": source, "local": local, "private": private, "keyed": keyed, "unsaid": unsaid}
    return Field(default, json_schema_extra=extra, **bounds)


class MethodParams(Params):
    """Base of every method's parameters."""

    lr: float = param(0.0, ge=0, source="ours")
    """Peak learning rate; 0 uses the one that the board's protocol shares among all methods."""


class PairParams(Params):
    """Base of every pair builder's parameters: what a pair must be like to be kept. The harness does the sifting."""

    scorer: str = param("", source="ours", unsaid=True)
    """Selector of the metric that scores responses: for `margin`, and for builders that order by score."""
    margin: float | None = param(None, ge=0, source="ours", unsaid=True)
    """Drop pairs whose chosen response scores less than this above the rejected one, or the same. In the scorer's unit,
    where % are 0 to 1."""
    max_ratio: float | None = param(None, ge=1, source="ours", unsaid=True)
    """Drop pairs of which one response has more than this many times the words of the other."""
    min_words: int = param(0, ge=0, source="ours", unsaid=True)
    """Drop pairs with a response of fewer words."""
    max_words: int | None = param(None, ge=1, source="ours", unsaid=True)
    """Drop pairs with a response of more words."""
    keep_identical: bool = param(False, source="ours", unsaid=True)
    """Keep pairs whose texts are the same but for white space; they are no preference."""
    per_prompt: int = param(0, ge=0, source="ours", unsaid=True)
    """Most pairs of one prompt; 0 keeps all there are. A step trains on one of them, drawn anew."""


class TaskParams(Params):
    """What every task has beside its own parameters; `Task` adds it to those of a plugin."""

    near_duplicates: Literal["report", "drop"] = param("report", source="ours", unsaid=True)
    """What becomes of a prompt that nearly repeats an evaluated prompt: `report` keeps and counts it, `drop` leaves it
    out."""


def source_of(params: type[Params], name: str) -> str:
    """Where the default of a parameter comes from; empty when nobody said."""
    return str(_extra(params.model_fields[name]).get("source", ""))


def _extra(info: Any) -> dict[str, Any]:
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def text_hash(text: str) -> str:
    """sha256 of a text."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def content_hash(path: Path) -> str:
    """sha256 over the names and bytes of a file, or of every file below a directory; "absent" if there is none.

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
    """sha256 of a file, read once by a process as long as its size and time (ns) stay the same."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
