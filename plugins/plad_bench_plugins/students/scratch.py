"""Students trained from scratch, for tasks with text that is simple enough to learn in minutes."""

from __future__ import annotations

from plad_bench import Student
from plad_bench_plugins.students._sources import ScratchParams

RECORDS = (
    Student(
        name="tiny",
        summary="A Llama of 0.15 million parameters from scratch, which a CPU trains in a minute.",
        params=ScratchParams,
        model=ScratchParams.model,
        teacher="small",
    ),
    Student(
        name="scratch",
        summary="A Llama from scratch, of any size.",
        params=ScratchParams,
        model=ScratchParams.model,
        teacher="small",
    ),
)
