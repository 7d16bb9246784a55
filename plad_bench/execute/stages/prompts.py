"""The text and token ids that each model of a run is given for a prompt, for `plan --show-prompt`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from plad_bench.contract import hub
from plad_bench.contract.errors import PladBenchError
from plad_bench.contract.models import HubModel
from plad_bench.execute.stages.files import read_prompts
from plad_bench.execute.stages.tokenizer import BOS
from plad_bench.execute.store import Artifact
from plad_bench.plan.cell import Cell

Find = Callable[[str], Path | None]
"""Key of a stage -> the directory of its artifact, if that is there."""


def given(cells: Iterable[Cell], find: Find, firsts: Mapping[str, str]) -> list[dict[str, Any]]:
    """For each task, teacher and student: role, model, task, and text, ids and end token, or why there are none.

    The prompt is the first training prompt: of the data stage, otherwise from `firsts` by task, otherwise "{prompt}".
    """
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for cell in cells:
        for role, chosen in (("teacher", cell.teacher), ("student", cell.student)):
            key = (cell.task.label, role, chosen.label)
            if key not in found:
                about = {"role": role, "model": chosen.label, "task": cell.task.label}
                found[key] = about | _given(cell, role, find, firsts.get(cell.task.label, ""))
    return list(found.values())


def _given(cell: Cell, role: str, find: Find, first: str) -> dict[str, Any]:
    prompt = next(_first(find(cell.plan.data.key)), first or "{prompt}")
    chosen = cell.teacher if role == "teacher" else cell.student
    if chosen.component.model is None:
        return {"reason": "its endpoint applies its own template"}
    source = chosen.component.model(chosen.params)
    init = cell.plan.init if role == "student" else next(s for s in cell.plan.teacher_model.walk() if s.name == "init")
    if isinstance(source, HubModel):
        files, format_ = hub.located(source.id, source.revision), source.prompts
    else:
        made = find(init.inputs["tokenizer"].key)
        files, format_ = made / "tokenizer" if made else None, None
        if files is None:
            return {"template": "none", "text": f"{BOS}{prompt}\n"}
    if files is None:
        return {"reason": "its files are not available yet"}
    return _shown(files, source, format_, prompt)


def _shown(files: Path, source: Any, format_: Any, prompt: str) -> dict[str, Any]:
    from plad_bench.learn import models
    from plad_bench.learn.sequences import Encoder

    try:
        if isinstance(source, HubModel):
            return models.encoder_of_files(files, Path(source.id).name, format_).shown(prompt)
        return Encoder(models.load_tokenizer(files, "the model from scratch"), 0).shown(prompt)
    except PladBenchError as error:
        return {"reason": str(error)}


def _first(data: Path | None) -> Iterator[str]:
    if data is not None:
        yield from (p.prompt for p in read_prompts(Artifact(data, {}), "train", 1))
