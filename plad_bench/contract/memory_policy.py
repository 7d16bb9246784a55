"""How a stage limits its use of device memory."""

from __future__ import annotations

from dataclasses import dataclass

COPIES = 8
"""Tensors [N, V] in float32 that a divergence and its gradient hold at the same time, approximately."""
CPU_BUDGET = 512 * 2**20
"""Bytes for them on a CPU. A constant, so that results do not depend on other work of the machine."""
GPU_SHARE = 16
"""Bytes for them on a GPU: its memory divided by this."""
CHUNKS = 4
"""A chunk takes this fraction of the budget, which suits processor caches, or has as many tokens as hidden states
are wide: with fewer, summing the gradients of the head would take longer than computing them."""
SMALL = 4
"""Activations are recomputed before the micro-batch falls below this size, which would leave a device mostly idle."""
GENERATION_BATCH = 128
"""Prompts that are decoded together."""


def chunk_of(room: int, width: int) -> int:
    """Tokens whose logits are computed at a time, if `room` tokens fit and hidden states are `width` wide."""
    return max(1, room // CHUNKS, min(room, width))


@dataclass
class MemoryPolicy:
    """The memory settings that a stage has found to work on its device. Not keyed: they only affect rounding."""

    micro_batch: int = 0
    """Maximum number of sequences per forward pass; 0 for no limit."""
    checkpointing: bool = False
    """Whether training recomputes activations in the backward pass (gradient checkpointing)."""
