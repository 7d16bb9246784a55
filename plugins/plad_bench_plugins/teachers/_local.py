"""What the teachers that run here as a model have in common."""

from __future__ import annotations

from plad_bench import Access, Params, Training, param

EVERYTHING = frozenset({Access.TEXT, Access.TOKEN_LOGPROBS, Access.TOP_K, Access.LOGITS, Access.HIDDEN})
"""What a model at hand provides."""


class TrainingParams(Params):
    """How a teacher is fine-tuned on the task's references before it teaches."""

    steps: int = param(0, ge=0, source="ours")
    """Optimiser steps; 0 uses the model as it is."""
    lr: float = param(1e-5, gt=0, source="ours")
    """Peak learning rate of those steps."""

    def training(self) -> Training | None:
        """The fine-tuning, or None."""
        return Training(steps=self.steps, lr=self.lr) if self.steps else None
