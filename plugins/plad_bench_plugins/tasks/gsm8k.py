"""gsm8k: step-by-step solutions of grade-school math word problems.

Cobbe et al. (2021): Training Verifiers to Solve Math Word Problems, arXiv:2110.14168. A solution ends with a line "####
number". The published splits are pooled and split again, so scores are not comparable with those on the published test
split.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

from plad_bench import Example, Loaded, Protocol, Task, param
from plad_bench_plugins.tasks._rows import Hub, PathParams, UnfitError, examples, require, text

HUB = Hub(id="openai/gsm8k", config="main")


class GSM8KParams(PathParams):
    """Parameters of gsm8k."""

    annotations: bool = param(False, source="ours")
    """Keep the calculator annotations of the data, such as <<48/2=24>>."""


def load(params: GSM8KParams) -> Iterator[Loaded]:
    """One example per problem."""
    return examples("gsm8k", params.path, HUB, partial(example, annotations=params.annotations))


def example(values: Mapping[str, Any], *, annotations: bool) -> Example:
    """A question and its solution."""
    solution = text(values, "answer").strip()
    if "####" not in solution:
        raise UnfitError("field answer has no line #### with the result")
    shown = solution if annotations else re.sub(r"<<[^<>]*>>", "", solution)
    return Example(prompt=text(values, "question").strip(), references=(shown,))


RECORDS = (
    Task(
        name="gsm8k",
        summary="Grade-school math word problems, solved step by step (GSM8K).",
        params=GSM8KParams,
        load=load,
        dataset="openai/gsm8k, main",
        licence="MIT",
        redistributable=True,
        # Untuned: common learning rates for fine-tuning pretrained models. Models from scratch need others.
        protocol=Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=256),
        metrics=("final-answer", "rouge-l", "length", "agreement"),
        student="smollm-135m",
        hub=lambda params: HUB if params.path is None else None,
        require=lambda params: require("gsm8k", params.path, HUB),
    ),
)
