"""dialogsum: summaries of everyday dialogues.

Chen et al. (2021): DialogSum: A Real-Life Scenario Dialogue Summarization Dataset, 2021.findings-acl.449. The dialogues
of its test split have three summaries each, either in separate rows or in the fields summary1, summary2 and summary3.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plad_bench import Example, Loaded, Protocol, Task
from plad_bench_plugins.tasks._rows import Hub, PathParams, examples, require, text
from plad_bench_plugins.tasks.tldr import SUMMARY_METRICS

HUB = Hub(id="knkarthick/dialogsum")
_SEVERAL = ("summary1", "summary2", "summary3")


def load(params: PathParams) -> Iterator[Loaded]:
    """One example per row."""
    return examples("dialogsum", params.path, HUB, example)


def example(values: Mapping[str, Any]) -> Example:
    """A dialogue and its summaries."""
    fields = [f for f in _SEVERAL if values.get(f)] or ["summary"]
    summaries = tuple(text(values, field).strip() for field in fields)
    return Example(prompt=f"{text(values, 'dialogue').strip()}\n\nSummary:", references=summaries)


RECORDS = (
    Task(
        name="dialogsum",
        summary="Summaries of everyday dialogues (DialogSum).",
        params=PathParams,
        load=load,
        dataset=HUB.id,
        licence="CC BY-NC-SA 4.0",
        redistributable=False,
        # Untuned: common learning rates for fine-tuning pretrained models. Models from scratch need others.
        protocol=Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=96),
        metrics=SUMMARY_METRICS,
        student="smollm-135m",
        hub=lambda params: HUB if params.path is None else None,
        require=lambda params: require("dialogsum", params.path, HUB),
    ),
)
