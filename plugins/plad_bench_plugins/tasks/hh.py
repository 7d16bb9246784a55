"""hh: the assistant's next turn in a dialogue with a person who asks for help.

Bai et al. (2022): Training a Helpful and Harmless Assistant, arXiv:2204.05862. Of its pairs the preferred reply is the
reference, and the other is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from plad_bench import Example, Loaded, Protocol, Task
from plad_bench_plugins.tasks._rows import Hub, PathParams, UnfitError, examples, require, text

HUB = Hub(id="Anthropic/hh-rlhf", folder="helpful-base")
_REPLY = "\n\nAssistant:"


def load(params: PathParams) -> Iterator[Loaded]:
    """One example for each dialogue."""
    return examples("hh", params.path, HUB, example)


def example(values: Mapping[str, Any]) -> Example:
    """A dialogue up to the assistant's last turn, and that turn; or an instruction and the reply to it."""
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
        # Untuned: rates that fine-tuning of pretrained models commonly uses. A model from scratch needs its own.
        protocol=Protocol(steps=1000, lr=1e-5, sft_steps=1000, sft_lr=1e-5, max_new_tokens=128),
        # One reference says little of a dialogue: rank by the win rate of a scorer of your own where you have one.
        metrics=("win-teacher", "rouge-l", "length", "agreement"),
        student="smollm-135m",
        hub=lambda params: HUB if params.path is None else None,
        require=lambda params: require("hh", params.path, HUB),
    ),
)
