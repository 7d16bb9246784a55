"""How a stage limits its use of device memory."""

from __future__ import annotations

from dataclasses import dataclass

COPIES = 8
"""Tensors [N, V] in float32 that a divergence and its gradient hold at the same time on a GPU, approximately."""
CPU_COPIES = 3
"""The same on a CPU, where a loss passes over a few rows at a time: the logits of both models and a gradient."""
CPU_BUDGET = 2**30
"""Bytes for them on a CPU. A constant, so that results do not depend on other work of the machine."""
CPU_KEPT = 2**31
"""Bytes of logits that a pair loss keeps for its gradient on a CPU."""
GPU_SHARE = 16
"""Bytes for them on a GPU: its memory divided by this."""
CHUNKS = 4
"""On a GPU a chunk takes this fraction of the budget."""
CPU_CHUNK = 4 * 2**20
"""Bytes of the logits that stay in a CPU's caches while a loss passes over them several times."""
SMALL = 4
"""Activations are recomputed before the micro-batch falls below this size, which would leave a device mostly idle."""
GENERATION_BATCH = 128
"""Prompts that are decoded together."""
ENGINE_SHARE = 0.3
"""Share of a GPU's memory for a vLLM engine that samples beside a training."""


def chunk_of(count: int, room: int, width: int, cached: int = 0) -> int:
    """The number of tokens whose logits are computed at a time.

    It is at least the width of hidden states, if that many fit: with fewer, summing the gradients of the output head
    would take longer than computing them.

    Args:
        count: all tokens.
        room: tokens that fit into the memory for logits.
        width: width of the hidden states.
        cached: tokens whose logits fit into a CPU's caches; 0 on a GPU, where chunks are for lack of memory alone.
    """
    if count <= room and not cached:
        return max(1, count)
    return max(1, min(count, room, max(width, cached or room // CHUNKS)))


@dataclass
class MemoryPolicy:
    """The memory settings that a stage has found to work on its device. Not keyed: they only affect rounding."""

    micro_batch: int = 0
    """Maximum number of sequences per forward pass; 0 for no limit."""
    checkpointing: bool = False
    """Whether training recomputes activations in the backward pass (gradient checkpointing)."""
