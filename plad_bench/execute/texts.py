"""Reads prompts, references and responses of a recorded cell from the store, for display in a terminal only."""

from __future__ import annotations

from pathlib import Path

from plad_bench.contract.errors import MissingError
from plad_bench.contract.jsonlines import read_lines
from plad_bench.execute.store import Store
from plad_bench.records.schema import Record


def read(store: Store, record: Record, teacher: Record | None, count: int) -> list[dict[str, str]]:
    """The first prompts by id, each with its reference, the teacher's response and the cell's own.

    Args:
        store: the store that computed the cell.
        record: the cell's record.
        teacher: the teacher's record; without it, or without its responses, no teacher is shown.
        count: number of prompts.

    Raises:
        MissingError: if the cell's responses, or their prompts, are not in the store.
    """
    remedy = "Give the --store that computed it, or compute it again: its record's command with --board NAME."
    responses = store.find(record.key) if record.key else None
    if responses is None:
        raise MissingError(f"the responses of {record.cell} are not in the store", remedy)
    data = store.find(responses.manifest["document"]["inputs"]["data"])
    if data is None:
        raise MissingError(f"the prompts of {record.cell} are not in the store", remedy)
    examples = {
        row["id"]: row for row in read_lines(data.path / f"{responses.manifest['document']['spec']['split']}.jsonl")
    }
    taught = store.find(teacher.key) if teacher is not None and teacher.cell != record.cell else None
    model_texts = _texts(taught.path) if taught is not None else {}
    shown = []
    for example, response in sorted(_texts(responses.path).items())[:count]:
        references = examples[example]["references"]
        sample = {"prompt": examples[example]["prompt"], "reference": references[0] if references else ""}
        if example in model_texts:
            sample["teacher"] = model_texts[example]
        shown.append({**sample, "response": response})
    return shown


def _texts(responses: Path) -> dict[str, str]:
    """The first response to each prompt, by the prompt's id."""
    return {
        row["id"]: row["responses"][0]["text"] for row in read_lines(responses / "responses.jsonl") if row["responses"]
    }
