"""Teachers trained from scratch on the task's references."""

from __future__ import annotations

from plad_bench import Teacher, param
from plad_bench_plugins.students._sources import ScratchParams
from plad_bench_plugins.teachers._local import EVERYTHING, TrainingParams


class ScratchTeacherParams(ScratchParams, TrainingParams):
    """Size and training of a teacher from scratch."""

    layers: int = param(4, ge=1, source="ours")
    """Transformer blocks."""
    width: int = param(128, ge=2, source="ours")
    """Size of the hidden states."""
    steps: int = param(1500, ge=1, source="ours; on E2E it is best near 1,500 to 1,800 steps, then overfits")
    """Optimiser steps on the task's references."""
    lr: float = param(2e-3, gt=0, source="ours")
    """Peak learning rate of the training."""


RECORDS = (
    Teacher(
        name="small",
        summary="A Llama of 0.9 million parameters from scratch, trained on the task's references.",
        params=ScratchTeacherParams,
        provides=EVERYTHING,
        model=ScratchTeacherParams.model,
        training=ScratchTeacherParams.training,
    ),
    Teacher(
        name="scratch",
        summary="A Llama from scratch of any size, trained on the task's references.",
        params=ScratchTeacherParams,
        provides=EVERYTHING,
        model=ScratchTeacherParams.model,
        training=ScratchTeacherParams.training,
    ),
)
