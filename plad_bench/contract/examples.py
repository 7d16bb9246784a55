"""Examples, responses and pairs: the data that plugins and the harness exchange."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from plad_bench.contract.enums import Text


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt of a task. A task may yield the same prompt several times with different references."""

    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values for the metrics of this task, such as the slots of a meaning representation."""
    split: str | None = None
    """train, validation or test if the data set has splits; None lets the harness split by hash. A split without
    examples is taken from train."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """An unusable row of a data set. A task yields it in place of an example; the harness counts and lists it."""

    where: str
    """Location, such as "train.jsonl, line 7"."""
    reason: str
    """What is wrong with the row. Records may show it, so it must not quote the row's text."""
    hint: str = field(default="", compare=False)
    """A hint for the user, such as the fields of the row. Shown on the terminal and kept out of records."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """The data set on the hub from which a task's examples were read, for the record."""

    id: str
    revision: str
    """The revision that the hub resolved."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file, or a split on the hub, from which rows are read. A task yields it after the rows."""

    name: str
    rows: int | None
    """Number of rows, examples and bad rows together; None for a file that was not read."""
    remark: str = ""
    """A remark on how the file was read, such as its column separator. It must not quote text of the file."""


Loaded: TypeAlias = Example | BadRow | Origin | Source
"""The items that a task yields."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A text, with its token ids if a local model generated it."""

    text: str
    ids: tuple[int, ...] | None = None
    """Without the end token."""
    tokenizer: str = ""
    """Hash of the tokenizer of the ids."""
    finished: bool = True
    """False if the response was truncated at the length limit; training then adds no end token."""
    logprobs: tuple[float, ...] | None = None
    """Log-probabilities of `ids`, and of the end token if there is one, at temperature 1; None if unknown."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An example with its response, as metrics receive it."""

    id: str
    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any]
    response: str
    teacher: str | None = None
    """The teacher's response, if the metric needs it."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """The responses to one training prompt, by source."""

    id: str
    prompt: str
    responses: Mapping[Text, tuple[Response, ...]]
    """The references, and the other sources that the builder needs."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """`meta` of the example."""

    def scored(self, response: str, references: tuple[str, ...] | None = None) -> Scored:
        """The input of a scorer for a response, with other references than the task's if given."""
        if references is None:
            references = tuple(r.text for r in self.responses[Text.REFERENCE])
        return Scored(id=self.id, prompt=self.prompt, references=references, meta=self.meta, response=response)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference pair: `chosen` is preferred to `rejected`."""

    id: str
    """Id of the example."""
    chosen: Response
    rejected: Response
    margin: float | None = None
    """Score of `chosen` minus score of `rejected`: 0 for a tie, NaN without scores; None if the builder does not use
    scores."""
