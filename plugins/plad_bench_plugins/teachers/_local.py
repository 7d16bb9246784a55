"""Common parameters of teachers with a local model."""

from __future__ import annotations

from typing import Literal

from plad_bench import Access, Params, Training, param

EVERYTHING = frozenset({Access.TEXT, Access.TOKEN_LOGPROBS, Access.TOP_K, Access.LOGITS})
"""The access that a local model provides."""


CAUTIOUS_LR = 1e-5
"""Learning rate if neither a recipe nor the user sets one, such as when `training` is called from Python."""


class TrainingParams(Params):
    """Fine-tuning of a teacher on the task's references before use."""

    steps: int | None = param(None, ge=0, source="ours")
    """Optimiser steps; 0 uses the model as it is. If unset, the recipe's for a base model, and 0 for an instruct
    model."""
    lr: float | None = param(None, gt=0, source="ours")
    """Peak learning rate of the fine-tuning. If unset, the recipe's."""
    lora: int | None = param(None, ge=0, source="ours", unsaid=True)
    """LoRA rank of the fine-tuning; 0 trains all weights. If unset, 16 above 2 B parameters, and 0 below."""
    select: Literal["best", "last"] | None = param(None, source="ours", unsaid=True)
    """Which checkpoint of the fine-tuning to use: the best by the task's metric on validation prompts, or the last. If
    unset, the best where the recipe sets the steps, and the last otherwise."""

    def training(self) -> Training | None:
        """The fine-tuning, or None if there is none."""
        if not self.steps:
            return None
        return Training(steps=self.steps, lr=self.lr or CAUTIOUS_LR, lora=self.lora or 0, select=self.select or "last")
