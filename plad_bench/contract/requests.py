"""Requests to teachers, and the conditions for their responses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from plad_bench.contract.money import Budget
from plad_bench.contract.renamed import former_names


@dataclass(frozen=True, kw_only=True)
class Request:
    """A request for responses to one prompt."""

    id: str
    prompt: str


@former_names(journal="response_cache", purse="budget")
@dataclass(frozen=True, kw_only=True)
class RequestContext:
    """The conditions for a teacher's responses, and the objects that it reports to."""

    split: str
    max_new_tokens: int
    temperature: float
    """0 requests greedy decoding."""
    top_k: int
    """0 if nothing is sampled."""
    seed: int
    samples: int = 1
    """Number of responses per request, if sampling."""
    response_cache: Path
    """Response cache: a file with one line per answered request, which survives a killed process. Cached requests are
    not sent again."""
    budget: Budget
    same: Callable[[str], str]
    """Maps a prompt to a value that is equal for all prompts that the harness treats as the same."""
    progress: Callable[[int, int], None]
    """Called with the numbers of answered requests and of all requests."""
    counts: dict[str, float]
    cost: dict[str, float]
    """`tokens_generated` and `money` are recorded."""
    notes: dict[str, Any]
