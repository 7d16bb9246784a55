"""Splits named by the data itself, and the splits left to the hash of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Example

ORDER = ("train", "validation", "test")
"""A prompt in several splits belongs to the last of them."""


@dataclass(frozen=True)
class GivenSplits:
    """The splits of prompts, by the common key of their words, and the remaining examples."""

    examples: Sequence[Example]
    by_words: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Examples left out because their prompt is also in a later split."""

    def shares(self, shares: dict[str, int]) -> dict[str, int]:
        """The shares of the splits that the data does not name; they are taken from the training examples."""
        return {name: share for name, share in shares.items() if name not in set(self.by_words.values())}


def given_splits(examples: Iterable[Example], words: Callable[[str], str]) -> GivenSplits:
    """Read the splits named by examples.

    Args:
        examples: of a task.
        words: prompt -> common key of prompts that must share a split.

    Raises:
        StageError: for a split that does not exist.
    """
    examples = list(examples)
    if unknown := {e.split for e in examples} - {None, *ORDER}:
        raise StageError(
            f"an example names the split {min(map(str, unknown))!r}", f"Splits are {', '.join(ORDER)}, or None."
        )
    by_words: dict[str, str] = {}
    for example in examples:
        if example.split in ORDER[1:]:
            mark = words(example.prompt)
            by_words[mark] = max(by_words.get(mark, ORDER[0]), example.split, key=ORDER.index)
    if not by_words:
        return GivenSplits(examples)
    kept = [e for e in examples if (e.split or ORDER[0]) == by_words.get(words(e.prompt), e.split or ORDER[0])]
    return GivenSplits(kept, by_words, len(examples) - len(kept))
