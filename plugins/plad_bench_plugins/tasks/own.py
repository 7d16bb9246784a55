"""jsonl and hub: the user's own data, from local files or from a data set on the hub."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Self

from pydantic import model_validator

from plad_bench import Example, Loaded, Params, Protocol, Source, Task, param
from plad_bench_plugins._data_files import DataPath
from plad_bench_plugins.tasks._row_shapes import PROMPT, RESPONSE, RowReader, fields
from plad_bench_plugins.tasks._rows import Hub, examples, require
from plad_bench_plugins.tasks.tldr import SUMMARY_METRICS


class FieldParams(Params):
    """The fields of a row."""

    prompt: str = param(PROMPT, min_length=1, source="ours")
    """Field with the prompt: a string, a list of strings, or a chat. Rows without this field may have `messages`, or
    `instruction` and `input`, instead."""
    response: str = param(RESPONSE, source="ours")
    """Field with the reference response, or with a list of responses; empty (response=) for data with prompts only."""
    template: str = param("", source="ours", unsaid=True)
    r"""Template of the prompt with {field} placeholders, used instead of `prompt`: 'Summarise:\n{source}'."""

    @model_validator(mode="after")
    def _template_names_fields(self) -> Self:
        if self.template:
            fields(self.template)
            if self.prompt != PROMPT:
                msg = "give prompt= or template=, not both"
                raise ValueError(msg)
        return self

    def has_references(self) -> bool:
        """Whether rows have reference responses."""
        return bool(self.response)

    def reader(self, split: str = "") -> RowReader:
        """The converter of rows to examples; `split` is the field with the split, if there is one."""
        template = self.template.replace(r"\n", "\n").replace(r"\t", "\t")
        return RowReader(prompt=self.prompt, response=self.response, template=template, split=split)


class FilesParams(FieldParams):
    """Parameters of jsonl."""

    path: DataPath | None = param(None, local=True, source="ours")
    """A file (JSON Lines, JSON, CSV, TSV, Parquet or Arrow, optionally compressed) or a directory with only such files.
    Keys and records contain the hash of its content."""
    validation: DataPath | None = param(None, local=True, source="ours", unsaid=True)
    """Separate files with the validation split. If unset, it is split off the rows of `path` by hash."""
    test: DataPath | None = param(None, local=True, source="ours", unsaid=True)
    """Separate files with the test split. If unset, it is split off the rows of `path` by hash."""
    split: str = param("", source="ours", unsaid=True)
    """Field with the split of a row: train, validation or test."""

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.path is None:
            msg = "give path=, a file or a directory"
            raise ValueError(msg)
        if self.split and (self.validation or self.test):
            msg = "give either split=FIELD, or files with validation= and test="
            raise ValueError(msg)
        return self

    def parts(self) -> dict[str | None, Path]:
        """The files by split; None for rows that the harness splits."""
        return {s: p for s, p in ((None, self.path), ("validation", self.validation), ("test", self.test)) if p}


class HubParams(FieldParams):
    """Parameters of hub."""

    id: str = param("", pattern=r"^([\w.-]*\w(/[\w.-]*\w)?)?$", source="ours")
    """Hub id, org/name."""
    config: str | None = param(None, min_length=1, source="ours")
    """Name of a configuration."""
    split: str | None = param(None, min_length=1, source="ours")
    """A split, or several, such as train+test. If unset, all splits are pooled."""
    revision: str | None = param(None, min_length=1, source="ours")
    """Branch, tag or commit. If unset, the hub's default; the record contains the commit."""
    validation: str | None = param(None, min_length=1, source="ours", unsaid=True)
    """Name of the validation split; needs `split`. If unset, it is split off the other rows by hash."""
    test: str | None = param(None, min_length=1, source="ours", unsaid=True)
    """Name of the test split; needs `split`. If unset, it is split off the other rows by hash."""

    @model_validator(mode="after")
    def _has_id(self) -> Self:
        if not self.id:
            msg = "give id=ORG/NAME"
            raise ValueError(msg)
        if (self.validation or self.test) and not self.split:
            msg = "validation= and test= need split=NAME, the split to train on"
            raise ValueError(msg)
        return self

    def hub(self) -> Hub:
        """The data set."""
        return Hub(id=self.id, config=self.config, revision=self.revision, split=self.split)

    def parts(self) -> dict[str | None, Hub]:
        """The data set by split; None for rows that the harness splits."""
        named = {"validation": self.validation, "test": self.test}
        return {None: self.hub(), **{part: replace(self.hub(), split=split) for part, split in named.items() if split}}


def load_files(params: FilesParams) -> Iterator[Loaded]:
    """One example for each row."""
    for part, path in params.parts().items():
        reader = params.reader(params.split)
        yield from _read(examples("jsonl", path, Hub(id=""), reader.example), reader, part)


def load_hub(params: HubParams) -> Iterator[Loaded]:
    """One example for each row."""
    for part, hub in params.parts().items():
        reader = params.reader()
        yield from _read(examples("hub", None, hub, reader.example), reader, part)


def _read(loaded: Iterable[Loaded], reader: RowReader, part: str | None) -> Iterator[Loaded]:
    """Add the split to examples, and remarks to sources."""
    for item in loaded:
        if isinstance(item, Example) and part is not None:
            yield replace(item, split=part)
        elif isinstance(item, Source):
            yield replace(item, remark="; ".join(filter(None, (item.remark, reader.remarks()))))
        else:
            yield item


def _require_files(params: FilesParams) -> None:
    for path in params.parts().values():
        require("jsonl", path, Hub(id=""))


# Untuned: common learning rates for fine-tuning pretrained models. Models from scratch need others.
_PROTOCOL = Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=128)

RECORDS = (
    Task(
        name="jsonl",
        summary="Your own files: rows with a prompt and a response, or with a prompt only.",
        params=FilesParams,
        load=load_files,
        dataset="local files",
        licence="not known to plad-bench",
        redistributable=False,
        protocol=_PROTOCOL,
        metrics=SUMMARY_METRICS,
        student="smollm-135m",
        references=FilesParams.has_references,
        require=_require_files,
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
