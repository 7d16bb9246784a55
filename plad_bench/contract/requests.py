"""What a teacher is asked, and how it is to answer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plad_bench.contract.money import Budget
from plad_bench.contract.renamed import former_names


@dataclass(frozen=True, kw_only=True)
class Request:
    """One prompt that a teacher is asked."""

    id: str
    prompt: str


@former_names(journal="response_cache", purse="budget")
@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """How a teacher is to answer, and what it reports to."""

    split: str
    max_new_tokens: int
    temperature: float
    """0 asks for the likeliest text."""
    top_k: int
    """0 where nothing is sampled."""
    seed: int
    samples: int = 1
    """Responses to each request, where it samples."""
    response_cache: Path
    """Survives a kill. What is written here, a line for each answered request, need not be asked for again."""
    budget: Budget
    same: Callable[[str], str]
    """A prompt -> what it has in common with all that the harness takes for the same prompt."""
    progress: Callable[[int, int], None]
    """Told (answered, all)."""
    counts: dict[str, float]
    cost: dict[str, float]
    """`tokens_generated` and `money` enter the record."""
    notes: dict[str, Any]
