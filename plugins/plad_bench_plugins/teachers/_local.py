"""What the teachers that run here as a model have in common."""

from __future__ import annotations

from plad_bench import Access, Params, Training, param

EVERYTHING = frozenset({Access.TEXT, Access.TOKEN_LOGPROBS, Access.TOP_K, Access.LOGITS})
"""What a model at hand provides."""


CAUTIOUS_LR = 1e-5
"""The rate where neither a recipe nor the user was asked, as when `training` is called from Python."""


class TrainingParams(Params):
    """How a teacher is fine-tuned on the task's references before it teaches."""

    steps: int | None = param(None, ge=0, source="ours")
    """Optimiser steps; 0 uses the model as it is. Unset is the recipe's for a base model, and 0 for an instruct one."""
    lr: float | None = param(None, gt=0, source="ours")
    """Peak learning rate of those steps; unset is the recipe's."""

    def training(self) -> Training | None:
        """The fine-tuning, or None."""
        return Training(steps=self.steps, lr=self.lr or CAUTIOUS_LR) if self.steps else None
