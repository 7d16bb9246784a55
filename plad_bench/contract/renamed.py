"""Names that changed: the older ones work for one more version, with a warning, and old records are read by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SETTINGS = {"warmup_steps": "sft_steps", "warmup_lr": "sft_lr", "signals": "teacher_logprobs"}
"""Settings of the protocol; options and variables follow from them."""
METRICS = {"perplexity": "nll", "pair-accuracy": "preference-accuracy"}
STAGES = {"warmup": "sft-init"}
"""Stages, and the baselines that they make."""
COSTS = {"warmup_device_seconds": "sft_init_device_seconds"}
"""Keys of a record's cost."""
COUNTS = {"unfinished": "truncated", "cut_sequences": "truncated_sequences"}
"""The last part of keys of a record's counts."""


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by the names that they have now."""
    return {SETTINGS.get(name, name): value for name, value in values.items()}
