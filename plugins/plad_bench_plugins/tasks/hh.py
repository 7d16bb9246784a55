"""hh: the assistant's next turn in a dialogue with a user.

Bai et al. (2022): Training a Helpful and Harmless Assistant, arXiv:2204.05862. The preferred reply of each pair is the
reference; the other is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plad_bench import Example, Loaded, Protocol, Task
from plad_bench_plugins.tasks._rows import Hub, PathParams, UnfitError, examples, require, text

HUB = Hub(id="Anthropic/hh-rlhf", folder="helpful-base")
_REPLY = "\n\nAssistant:"


def load(params: PathParams) -> Iterator[Loaded]:
    """One example per dialogue."""
    return examples("hh", params.path, HUB, example)


def example(values: Mapping[str, Any]) -> Example:
    """A dialogue up to the assistant's last turn with that turn as reference; or an instruction and its reply."""
    if "instruction" in values:
        return Example(
            prompt=f"Human: {text(values, 'instruction').strip()}{_REPLY}",
            references=(text(values, "gold_response").strip(),),
        )
    before, turn, reply = text(values, "chosen").rpartition(_REPLY)
    if not turn or not before.strip():
        raise UnfitError("field chosen has no turn of the assistant after one of the human")
    if not reply.strip():
        raise UnfitError("the last turn of field chosen is empty")
    return Example(prompt=before.strip() + turn, references=(reply.strip(),))


RECORDS = (
    Task(
        name="hh",
        summary="Dialogues with a helpful assistant (Anthropic HH, helpful).",
        params=PathParams,
        load=load,
        dataset="Anthropic/hh-rlhf, helpful-base",
        licence="MIT",
        redistributable=True,
        # Untuned: common learning rates for fine-tuning pretrained models. Models from scratch need others.
        protocol=Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=128),
        # One reference is not enough to judge a dialogue: rank by the win rate under your own scorer if you have one.
        metrics=("win-teacher", "rouge-l", "length", "agreement"),
        student="smollm-135m",
        hub=lambda params: HUB if params.path is None else None,
        require=lambda params: require("hh", params.path, HUB),
    ),
)
