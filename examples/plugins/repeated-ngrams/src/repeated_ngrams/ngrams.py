"""n-grams of words, apart from plad-bench."""

from __future__ import annotations


def repeated(text: str, n: int) -> float:
    """Share of the n-grams of a text that occurred in it before; NaN if it has fewer than n words."""
    words = text.lower().split()
    grams = [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]
    return 1 - len(set(grams)) / len(grams) if grams else float("nan")
