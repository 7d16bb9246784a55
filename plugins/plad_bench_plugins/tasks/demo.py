"""demo: descriptions of guided walks. Synthetic data, generated offline by a grammar in a second."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

from plad_bench import Example, Protocol, Task

METRICS = (
    "slot-errors", "missing-slots", "added-slots", "rouge-1", "rouge-2", "rouge-l",
    "length", "agreement", "win-teacher", "win-reference",
)  # fmt: skip
"""The default metrics of data-to-text tasks; the first one ranks."""

ARTIFACTS = Path(__file__).parent.parent / "demo" / "artifacts"
WORDINGS_SEED = 7


def load(params: Any) -> Iterator[Example]:
    """All meanings with three to five different wordings each. Deterministic."""
    from plad_bench_plugins.demo.grammar import linearise, meanings, realise

    rng = Random(WORDINGS_SEED)
    for meaning in meanings():
        wanted = rng.choice((3, 4, 5))
        wordings: dict[str, None] = {}
        while len(wordings) < wanted:
            wordings[realise(meaning, rng)] = None
        yield Example(
            prompt=linearise(meaning),
            references=tuple(wordings),
            meta={"slots": list(meaning.items()), "matcher": "plad_bench_plugins.demo.grammar:slot_errors"},
        )


def artifacts() -> Path | None:
    """The stage artifacts that ship with the task, if they exist."""
    return ARTIFACTS if ARTIFACTS.is_dir() else None


RECORDS = (
    Task(
        name="demo",
        summary="Guided walks: from slots to a few English sentences. Synthetic, offline.",
        load=load,
        dataset="generated here",
        licence="CC0-1.0",
        redistributable=True,
        protocol=Protocol(max_new_tokens=80),
        metrics=METRICS,
        student="tiny",
        artifacts=artifacts,
    ),
)
