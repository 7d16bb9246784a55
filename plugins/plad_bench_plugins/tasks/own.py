"""jsonl and hub: the user's own data, from files here or from a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Self

from pydantic import model_validator

from plad_bench import Example, Loaded, Params, Protocol, Task, param
from plad_bench_plugins._data_files import DataPath
from plad_bench_plugins.tasks._rows import Hub, UnfitError, examples, require, text
from plad_bench_plugins.tasks.tldr import SUMMARY_METRICS


class FieldParams(Params):
    """Which fields of a row are what."""

    prompt: str = param("prompt", min_length=1, source="ours")
    """Field with the prompt."""
    response: str = param("response", source="ours")
    """Field with the reference response, or with a list of them; empty (response=) for prompts alone."""

    def has_references(self) -> bool:
        """Whether there are reference responses."""
        return bool(self.response)

    def example(self, values: Mapping[str, Any]) -> Example:
        """The example of a row."""
        if not self.response:
            return Example(prompt=text(values, self.prompt), references=())
        given = values.get(self.response)
        if not isinstance(given, list):
            given = [given]
        if not given:
            raise UnfitError(f"field {self.response} is an empty list")
        references = tuple(text({self.response: one}, self.response) for one in given)
        return Example(prompt=text(values, self.prompt), references=references)


class FilesParams(FieldParams):
    """Parameters of jsonl."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet, Arrow; also compressed) or a directory that holds such files alone.
    Keys and records see the hash of its content."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            msg = "give path=FILE, or a directory"
            raise ValueError(msg)
        return self


class HubParams(FieldParams):
    """Parameters of hub."""

    id: str = param("", pattern=r"^([\w.-]*\w(/[\w.-]*\w)?)?$", source="ours")
    """Hub id, org/name."""
    config: str | None = param(None, min_length=1, source="ours")
    """One of its configurations."""
    split: str | None = param(None, min_length=1, source="ours")
    """One of its splits, or several: train+test. Unset pools them all."""
    revision: str | None = param(None, min_length=1, source="ours")
    """Branch, tag or commit; unset is what the hub resolves, which the record tells."""

    @model_validator(mode="after")
    def _has_id(self) -> Self:
        if not self.id:
            msg = "give id=ORG/NAME"
            raise ValueError(msg)
        return self

    def hub(self) -> Hub:
        """The data set."""
        return Hub(id=self.id, config=self.config, revision=self.revision, split=self.split)


def load_files(params: FilesParams) -> Iterator[Loaded]:
    """One example for each row."""
    return examples("jsonl", params.path, Hub(id=""), params.example)


def load_hub(params: HubParams) -> Iterator[Loaded]:
    """One example for each row."""
    return examples("hub", None, params.hub(), params.example)


# Untuned: rates that fine-tuning of pretrained models commonly uses. A model from scratch needs its own.
_PROTOCOL = Protocol(steps=1000, lr=1e-5, warmup_steps=1000, warmup_lr=1e-5, max_new_tokens=128)

RECORDS = (
    Task(
        name="jsonl",
        summary="Your own files: rows with a prompt and a response, or a prompt alone.",
        params=FilesParams,
        load=load_files,
        dataset="local files",
        licence="not known to plad-bench",
        redistributable=False,
        protocol=_PROTOCOL,
        metrics=SUMMARY_METRICS,
        student="smollm-135m",
        references=FilesParams.has_references,
        require=lambda params: require("jsonl", params.path, Hub(id="")),
    ),
    Task(
        name="hub",
        summary="Any data set on the hub whose rows have a prompt and a response.",
        params=HubParams,
        load=load_hub,
        dataset="the hub's",
        licence="not known to plad-bench: see its card",
        redistributable=False,
        protocol=_PROTOCOL,
        metrics=SUMMARY_METRICS,
        student="smollm-135m",
        references=HubParams.has_references,
        hub=HubParams.hub,
        require=lambda params: require("hub", None, params.hub()),
    ),
)
