"""How a stage limits its use of device memory."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class MemoryPolicy:
    """The memory settings that a stage has found to work on its device. Not keyed: they only affect rounding."""

    micro_batch: int = 0
    """Maximum number of sequences per forward pass; 0 for no limit."""
    checkpointing: bool = False
    """Whether training recomputes activations in the backward pass (gradient checkpointing)."""
