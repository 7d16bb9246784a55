"""tldr: one- or two-sentence summaries of Reddit posts by their authors.

Stiennon et al. (2020): Learning to summarize with human feedback, arXiv:2009.01325, with filtered posts from
Webis-TLDR-17 (Voelske et al. 2017, W17-4508). OpenAI's files and their mirrors on the hub are supported: with the
fields subreddit, title, post and summary, or with complete prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plad_bench import Example, Loaded, Protocol, Task, param
from plad_bench_plugins.tasks._rows import Hub, PathParams, examples, require, text

SUMMARY_METRICS = ("rouge-l", "rouge-1", "rouge-2", "length", "agreement", "win-teacher")
"""The default metrics of tasks with one reference; the first one ranks."""


class TLDRParams(PathParams):
    """Parameters of tldr."""

    id: str = param("trl-lib/tldr", min_length=1, source="ours: a mirror of OpenAI's filtered posts, in Parquet")
    """Hub id of the data set or of a mirror."""


def load(params: TLDRParams) -> Iterator[Loaded]:
    """One example per post."""
    return examples("tldr", params.path, Hub(id=params.id), example)


def example(values: Mapping[str, Any]) -> Example:
    """A post in the prompt format of the paper."""
    if "prompt" in values:
        prompt, summary = text(values, "prompt"), text(values, "completion" if "completion" in values else "label")
    else:
        post = text(values, "instruction" if "instruction" in values else "post")
        heading = f"SUBREDDIT: r/{text(values, 'subreddit')}\n\nTITLE: {text(values, 'title')}"
        prompt = f"{heading}\n\nPOST: {post}\n\nTL;DR:"
        summary = text(values, "gold_response" if "gold_response" in values else "summary")
    return Example(prompt=prompt.strip(), references=(summary.strip(),))


RECORDS = (
    Task(
        name="tldr",
        summary="Summaries of Reddit posts in one or two sentences (TL;DR, filtered).",
        params=TLDRParams,
        load=load,
        dataset="openai/summarize-from-feedback, tldr_3_filtered",
        licence="CC BY 4.0 (Webis-TLDR-17)",
        # The licence allows it, but the posts are private matters of strangers.
        redistributable=False,
        # Untuned: common learning rates for fine-tuning pretrained models. Models from scratch need others.
        protocol=Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=64),
        metrics=SUMMARY_METRICS,
        student="smollm-135m",
        hub=lambda params: Hub(id=params.id) if params.path is None else None,
        require=lambda params: require("tldr", params.path, Hub(id=params.id)),
    ),
)
