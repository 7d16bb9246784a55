"""Examples, responses and pairs: the texts that pass between a plugin and the harness."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from plad_bench.contract.enums import Text


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt as a task yields it. The same prompt may come several times, with other references."""

    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values a metric of this task needs, such as the slots of a meaning."""
    split: str | None = None
    """train, validation or test where the data says so; None leaves that to the harness, which splits by hash. A split
    that no example names is taken from those of train."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row of a data set that is no example. A task yields it instead; the harness counts and lists it."""

    where: str
    """Such as "train.jsonl, line 7"."""
    reason: str
    """What is wrong with it. Quotes none of its text, for a record may show it."""
    hint: str = field(default="", compare=False)
    """What may help its owner, such as the fields that the row has. Shown to them, and kept out of records."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the examples of a task came from, for the record."""

    id: str
    revision: str
    """What the hub resolved."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file, or a split on the hub, whose rows a task or a recorded teacher reads. A task yields it after its rows."""

    name: str
    rows: int | None
    """How many rows it holds, examples and bad rows together; None for a file that was left out."""
    remark: str = ""
    """What its owner should know of how it was read, such as by what its columns are separated. Quotes none of its
    text."""


Loaded: TypeAlias = Example | BadRow | Origin | Source
"""What a task yields."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A text, with the token ids it was generated as, if a model of ours made it."""

    text: str
    ids: tuple[int, ...] | None = None
    """Without the end token."""
    tokenizer: str = ""
    """Hash of the tokenizer that the ids belong to."""
    finished: bool = True
    """False when the length limit cut it: no end token is then trained."""
    logprobs: tuple[float, ...] | None = None
    """Of each of `ids`, and of the end token if there is one, before any temperature; None where nobody kept them."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a metric sees of one example."""

    id: str
    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any]
    response: str
    teacher: str | None = None
    """The teacher's response, for metrics that need it."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All the responses to one training prompt, by source."""

    id: str
    prompt: str
    responses: Mapping[Text, tuple[Response, ...]]
    """The references, and of the other sources those that the builder needs."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The example's."""

    def scored(self, response: str, references: tuple[str, ...] | None = None) -> Scored:
        """What a scorer sees of a response, in place of the task's references others if they are given."""
        if references is None:
            references = tuple(r.text for r in self.responses[Text.REFERENCE])
        return Scored(id=self.id, prompt=self.prompt, references=references, meta=self.meta, response=response)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference: `chosen` is taken to be better than `rejected`."""

    id: str
    """The id of the prompt's example."""
    chosen: Response
    rejected: Response
    margin: float | None = None
    """The lead of `chosen` by the builder's scorer: 0 is a tie, NaN no score; None if it does not order by score."""
