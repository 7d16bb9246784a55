"""How the data stage merged and dropped the rows of a task, in words, for the terminal and for pages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_FACTS = {
    "left_to_a_later_split": (
        "row is left out because its prompt is also in a later split",
        "rows are left out because their prompts are also in a later split",
    ),
    "rows_merged": (
        "row has the same prompt as another row, and its references are added to that one",
        "rows have the same prompt as another row, and their references are added to that one",
    ),
    "references_repeated": (
        "reference is the same as another one of its prompt, and is left out",
        "references are the same as another one of their prompt, and are left out",
    ),
    "same_words": (
        "prompt has the same words as another prompt: it shares that one's split and keeps its own references",
        "prompts have the same words as another prompt: they share its split and keep their own references",
    ),
    "near_duplicates": (
        "prompt is a near-duplicate of one in a later split and is kept (near_duplicates=drop leaves it out)",
        "prompts are near-duplicates of one in a later split and are kept (near_duplicates=drop leaves them out)",
    ),
    "near_duplicates_dropped": (
        "prompt is a near-duplicate of one in a later split and is left out",
        "prompts are near-duplicates of one in a later split and are left out",
    ),
}
"""Name of a count of the data stage -> the phrase for one and for several."""


def facts(counts: Mapping[str, float], prefix: str = "") -> Iterator[str]:
    """A phrase for each count of merged, dropped and near-duplicate rows that is not 0.

    Args:
        counts: of the data stage, or of a record.
        prefix: what the names begin with: "data." in a record.
    """
    for name, (one, several) in _FACTS.items():
        if count := counts.get(f"{prefix}{name}", 0.0):
            yield f"{count:,.0f} {one if count == 1 else several}"


def sizes(counts: Mapping[str, float], prefix: str = "") -> str:
    """How many prompts each split has."""
    return ", ".join(f"{counts.get(f'{prefix}{s}_prompts', 0):,.0f} {s}" for s in ("train", "validation", "test"))
