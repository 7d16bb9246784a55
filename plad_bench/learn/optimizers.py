"""The optimiser of a training: AdamW, with moments in float32 or in 8 bits."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from plad_bench.contract.errors import MissingError


def make(name: str, module: nn.Module, lr: float, device: str) -> torch.optim.Optimizer:
    """The optimiser of a module's trained parameters.

    `adamw8bit` is that of bitsandbytes (Dettmers et al. 2022, arXiv:2110.02861): moments in 8 bits, block by block. As
    in transformers' Trainer, those of embeddings stay in float32, since most rows of their gradient are zero.

    Raises:
        MissingError: if `adamw8bit` has no GPU, or bitsandbytes is not installed.
    """
    parameters = [p for p in module.parameters() if p.requires_grad]
    if name == "adamw":
        # Fused on GPUs. On CPUs the fused kernel rounds differently from the committed boards and saves little time.
        return torch.optim.AdamW(parameters, lr=lr, fused=True if device.startswith("cuda") else None)
    if not device.startswith("cuda"):
        raise MissingError("the optimiser adamw8bit needs a GPU", "Use --optimizer adamw.")
    try:
        from bitsandbytes import optim
    except ImportError as error:
        raise MissingError(
            "the optimiser adamw8bit needs the package bitsandbytes", "pip install 'plad-bench[bitsandbytes]'"
        ) from error
    # torch's AdamW has the same weight decay.
    optimizer: Any = optim.AdamW8bit(parameters, lr=lr, weight_decay=0.01)
    for part in module.modules():
        if isinstance(part, nn.Embedding):
            optim.GlobalOptimManager.get_instance().register_module_override(part, "weight", {"optim_bits": 32})
    return optimizer
