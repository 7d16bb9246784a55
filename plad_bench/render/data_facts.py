"""What the data stage did to the rows of a task, in words: the same on the terminal, in `plan` and on a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

_FACTS = {
    "left_to_a_later_split": (
        "row is left out: its prompt is in a later split, too",
        "rows are left out: their prompts are in a later split, too",
    ),
    "rows_merged": (
        "row repeats the prompt of another row and adds its references to it",
        "rows repeat the prompt of another row and add their references to it",
    ),
    "references_repeated": (
        "reference repeats another one of its prompt",
        "references repeat another one of their prompt",
    ),
    "same_words": (
        "prompt has the same words as another prompt: it shares that one's split and keeps its own references",
        "prompts have the same words as another prompt: they share its split and keep their own references",
    ),
    "near_duplicates": (
        "prompt nearly repeats one of a later split and is kept (near_duplicates=drop leaves it out)",
        "prompts nearly repeat one of a later split and are kept (near_duplicates=drop leaves them out)",
    ),
    "near_duplicates_dropped": (
        "prompt nearly repeats one of a later split and is left out",
        "prompts nearly repeat one of a later split and are left out",
    ),
}
"""Count of the data stage -> how one and how several of it read."""


def facts(counts: Mapping[str, float], prefix: str = "") -> Iterator[str]:
    """What was merged, left out or looks alike, a phrase for each count that is not 0.

    Args:
        counts: those of the data stage, or of a record, where their names begin with `prefix`.
        prefix: "data." in a record.
    """
    for name, (one, several) in _FACTS.items():
        if count := counts.get(f"{prefix}{name}", 0.0):
            yield f"{count:,.0f} {one if count == 1 else several}"


def sizes(counts: Mapping[str, float], prefix: str = "") -> str:
    """How many prompts each split has."""
    return ", ".join(f"{counts.get(f'{prefix}{s}_prompts', 0):,.0f} {s}" for s in ("train", "validation", "test"))
