"""The files that pass between stages: examples, responses and pairs as JSON lines."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.evaluation_points import directory
from plad_bench.contract.examples import Response, Scored
from plad_bench.contract.jsonlines import read_lines, write_lines
from plad_bench.execute.store import Artifact

RESPONSES, PAIRS, VALUES, CURVE, LOGPROBS, MODEL = (
    "responses.jsonl",
    "pairs.jsonl",
    "values.json",
    "curve.jsonl",
    "logprobs.json",
    "model",
)


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a split, with all its references."""

    id: str
    split: str
    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any]


def model_of(artifact: Artifact, spec: Mapping[str, Any]) -> Path:
    """The directory of a model: the one at the end of a training, or after the share that a specification names."""
    return artifact.path / (directory(spec["at"]) if "at" in spec else "") / MODEL


def read_prompts(data: Artifact, split: str, limit: int = 0) -> list[Prompt]:
    """The prompts of one split, in the order of their ids; the first `limit` of them unless that is 0."""
    rows = itertools.islice(read_lines(data.path / f"{split}.jsonl"), limit or None)
    return [Prompt(**{**row, "references": tuple(row["references"])}) for row in rows]


def write_prompts(directory: Path, prompts: Sequence[Prompt], splits: Iterable[str]) -> None:
    """Write a file of prompts per split."""
    for split in splits:
        write_lines(directory / f"{split}.jsonl", (vars(p) for p in prompts if p.split == split))


def response_row(response: Response) -> dict[str, Any]:
    """A response as JSON."""
    ids = list(response.ids) if response.ids is not None else None
    row = {"text": response.text, "ids": ids, "tokenizer": response.tokenizer, "finished": response.finished}
    return row if response.logprobs is None else {**row, "logprobs": list(response.logprobs)}


def response_of(row: Mapping[str, Any]) -> Response:
    """A response from JSON."""
    ids = tuple(row["ids"]) if row["ids"] is not None else None
    logprobs = tuple(row["logprobs"]) if "logprobs" in row else None
    return Response(text=row["text"], ids=ids, tokenizer=row["tokenizer"], finished=row["finished"], logprobs=logprobs)


def read_responses(artifact: Artifact, prompts: Sequence[Prompt]) -> dict[str, tuple[Response, ...]]:
    """Responses by example id; an empty tuple for prompts that the teacher skipped (`without_response`).

    Raises:
        StageError: naming a prompt without an entry.
    """
    by_id = {
        row["id"]: tuple(response_of(r) for r in row["responses"]) for row in read_lines(artifact.path / RESPONSES)
    }
    if missing := [p.id for p in prompts if p.id not in by_id]:
        raise StageError(
            f"{len(missing)} of {len(prompts)} prompts have no {artifact.stage} response, among them {missing[0]}"
        )
    return by_id


def scored(prompt: Prompt, response: str, teacher: str | None = None) -> Scored:
    """A prompt with a response, as a metric receives it."""
    return Scored(
        id=prompt.id,
        prompt=prompt.prompt,
        references=prompt.references,
        meta=prompt.meta,
        response=response,
        teacher=teacher,
    )
