"""Splits that the data itself names: what they decide, and what they leave to the hash of a prompt."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Example

ORDER = ("train", "validation", "test")
"""A prompt that is in several splits belongs to the last of them."""


@dataclass(frozen=True)
class GivenSplits:
    """Which prompts belong to which split, by what their words have in common; and which examples remain."""

    examples: Sequence[Example]
    by_words: dict[str, str] = field(default_factory=dict)
    left_out: int = 0
    """Examples of an earlier split whose prompt is one of a later split, too."""

    def shares(self, shares: dict[str, int]) -> dict[str, int]:
        """The shares of those splits that nobody named: they are taken from the training examples."""
        return {name: share for name, share in shares.items() if name not in set(self.by_words.values())}


def given_splits(examples: Iterable[Example], words: Callable[[str], str]) -> GivenSplits:
    """Read the splits that examples name.

    Args:
        examples: those of a task.
        words: a prompt -> what it has in common with all that must not be in another split.

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
