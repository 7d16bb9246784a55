"""The default task and the default board of a run."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract.names import DEMO_BOARD, TRIAL_BOARD, slug
from plad_bench.plan.recipes import published

if TYPE_CHECKING:
    from plad_bench.plan.chosen import Chosen

DEMO_METHODS = "sft,seqkd,kd,plad"
DEMO_TASK = "demo"
PRETRAINED_TASK = "tldr"


def task(students: Iterable[Chosen]) -> str:
    """The default task: one of the PLaD paper's for pretrained students, otherwise the demo."""
    return PRETRAINED_TASK if any(published(student) is not None for student in students) else DEMO_TASK


def board(tasks: Iterable[Chosen], students: Iterable[Chosen], *, trial: bool) -> str:
    """The default board: `trial`, `quickstart` for the demo, or one named after tasks and students."""
    tasks, students = tuple(tasks), tuple(students)
    if trial:
        return TRIAL_BOARD
    if {t.component.name for t in tasks} == {DEMO_TASK} and all(published(s) is None for s in students):
        return DEMO_BOARD
    names = [*(t.component.name for t in tasks), *(_name(s) for s in students)]
    return slug("-".join(dict.fromkeys(names)).lower()).lstrip("-.")


def _name(student: Chosen) -> str:
    """The short name of a student, or the last part of its path or hub id."""
    model = published(student)
    if model is None or not {"id", "path"} & type(student.params).model_fields.keys():
        return str(student.component.name)
    layers = f"-{model.layers}-layers" if model.layers else ""
    width = f"-{model.width}-wide" if model.width else ""
    return f"{Path(model.id).name}{layers}{width}"
