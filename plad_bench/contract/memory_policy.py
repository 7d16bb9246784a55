"""How a stage spares its device's memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class MemoryPolicy:
    """What a stage has learned about its device. No result depends on it but by rounding, so no key holds it."""

    micro_batch: int = 0
    """Sequences per forward pass at most; 0: as many as the work takes at once."""
    checkpointing: bool = False
    """Whether a training computes activations again for their gradients instead of keeping them."""
