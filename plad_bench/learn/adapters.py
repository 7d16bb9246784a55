"""Low-rank adapters (LoRA, Hu et al. 2021, arXiv 2106.09685), trained and then merged into the weights.

The model stays the same object, with adapted layers in place of its linear ones, so no other module handles adapters.
A stage's checkpoint has them merged: it is always a whole model.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from plad_bench.contract.errors import MissingError
from plad_bench.learn.seeds import derive

SCALE = 2
"""Adapters are multiplied by alpha / rank; published recipes use 1 or 2."""


def adapt(model: PreTrainedModel, rank: int, seed: int) -> Any:
    """Put adapters into all linear layers but the head, freeze the rest, and return the object that merges them.

    Raises:
        MissingError: if peft is not installed.
    """
    try:
        from peft import LoraConfig
        from peft.tuners.lora import LoraModel
    except ImportError as error:
        raise MissingError("adapters need the package peft", "pip install 'plad-bench[lora]'") from error
    torch.manual_seed(derive(seed, "adapters"))
    config = LoraConfig(
        r=rank,
        lora_alpha=SCALE * rank,
        target_modules="all-linear",
        task_type="CAUSAL_LM",  # so that the head is left out
        fan_in_fan_out=any(isinstance(layer, Conv1D) for layer in model.modules()),  # GPT-2's, stored transposed
    )
    return LoraModel(model, config, "default")


def merge(adapted: Any) -> PreTrainedModel:
    """The model with its adapters merged into its weights."""
    merged: PreTrainedModel = adapted.merge_and_unload()
    return merged.requires_grad_(True)  # noqa: FBT003  torch's own signature
