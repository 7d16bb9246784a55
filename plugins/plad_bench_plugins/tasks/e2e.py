"""e2e: the cleaned E2E restaurant data. From a meaning representation to one or two sentences, with several references.

Ondrej Dusek, David M. Howcroft and Verena Rieser (2019): Semantic Noise Matters for Neural Natural Language
Generation. INLG, W19-8652. The rows of all files are pooled; the harness groups them by meaning and splits them again.
Slots are found in texts by our own keywords, one pattern per value. Words and numbers with the same meaning (cheap,
less than £20) count as the same value. Counts of missing slots are reliable; counts of added slots are noisier, because
a keyword can have other meanings.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any

from plad_bench import Example, Loaded, Params, Task, param
from plad_bench_plugins._data_files import DataPath
from plad_bench_plugins.tasks._rows import Hub, UnfitError, examples, require, text
from plad_bench_plugins.tasks.demo import METRICS

HUB = Hub(id="tuetschek/e2e_nlg_cleaned", revision="refs/convert/parquet")
"""The hub's Parquet conversion, because the repository itself uses a loading script, which `datasets` 4 and later
refuse."""

_SLOT = re.compile(r"\s*(\w[\w ]*)\[([^\[\]]+)\]\s*")


class E2EParams(Params):
    """Parameters of e2e."""

    path: DataPath | None = param(None, local=True)
    """Directory with the CSV files of the cleaned data (columns mr and ref). If unset, the data is read from the
    hub."""


# -------------------------------------------------------------------------------------------------------- reading


def load(params: E2EParams) -> Iterator[Loaded]:
    """One example per row."""
    return examples("e2e", params.path, HUB, example)


def example(values: Mapping[str, Any]) -> Example:
    """A meaning representation and one sentence that expresses it."""
    published = "mr" not in values and "meaning_representation" in values  # as the hub names the columns
    meaning = text(values, "meaning_representation" if published else "mr")
    return Example(
        prompt=meaning,
        references=(text(values, "human_reference" if published else "ref"),),
        meta={"slots": parse(meaning), "matcher": "plad_bench_plugins.tasks.e2e:slot_errors"},
    )


def parse(meaning: str) -> list[tuple[str, str]]:
    """Parse `name[Alimentum], area[city centre]` to (slot, value) pairs; a slot may occur twice with different values.

    Raises:
        UnfitError: if the text has another format.
    """
    parts = re.split(r",(?![^\[]*\])", meaning)
    matches = [match for part in parts if (match := _SLOT.fullmatch(part))]
    if len(matches) < len(parts):
        raise UnfitError("not a meaning representation, slot[value], slot[value]")
    return [(match[1], match[2]) for match in matches]


# ------------------------------------------------------------------------------------------------------- matching

_MINORS = r"(?:famil(?:y|ies)|child(?:ren)?s?|kids?|minors?)"
_PRICE = r"(?:pric(?:e[sd]?|ing|e range)|cost(?:s|ing)?)"
_RATING = r"(?:rat(?:ed?|ings?)|reviews?|rank(?:ed|ing)?s?|approv(?:al|ed)|customers?|satisfaction|feedback|scores?)"


def _of(subject: str, words: str, between: int) -> str:
    """A pattern for one of the words, at most `between` words before the subject or four words after it."""
    return rf"(?:{words})[- ]+(?:\w+[- ]){{0,{between}}}{subject}|{subject}(?: \w+){{0,4}} (?:{words})"


def _stars(digit: str, word: str) -> str:
    return rf"(?:{digit}|{word})(?:(?: out)?(?: of |/)(?:5|five)|[- ]stars?)"


PATTERNS: dict[str, dict[str, str]] = {
    "eatType": {
        "restaurant": r"restaurants?",
        "coffee shop": r"coffee[- ]?(?:shops?|house|bar|place)|cafes?|coffee",
        "pub": r"pubs?|tavern",
    },
    "food": {
        "English": r"english|british",
        "French": r"french",
        "Italian": r"italian",
        "Indian": r"indian",
        "Chinese": r"chinese?",
        "Japanese": r"japanese",
        "Fast food": r"fast[- ]?foods?",
    },
    "area": {
        "city centre": r"(?:city[- ]?|town[- ]?)?cent(?:er|re)|downtown",
        "riverside": r"river(?:side|s|bank)?",
    },
    "priceRange": {
        "cheap": r"cheap\w*|inexpensive|affordabl[ey]|(?:less than|under|below) £? ?\d\d|"
        + _of(_PRICE, "low(?:er|ly)?", 0),
        "moderate": r"moderat\w+|reasonabl[ey]|mid(?:dle)?[- ]range|£? ?20(?: pounds)? ?(?:-|to|and) ?£? ?25|"
        + _of(_PRICE, "(?:average|medium|mid)(?:ly)?", 0),
        "high": r"expensive|pricey|costly|high[- ]end|(?:more than|over|above) £? ?30|£? ?30 (?:and|or) \w+|"
        + _of(_PRICE, "high(?:er|ly)?", 0),
    },
    "customer rating": {
        "low": _stars("1", "one") + "|" + _of(_RATING, "low(?:ly|er)?|poor(?:ly)?|bad(?:ly)?", 1),
        "average": _stars("3", "three") + "|" + _of(_RATING, "(?:average|decent|moderate|medium)(?:ly)?", 1),
        "high": _stars("5", "five") + "|" + _of(_RATING, "high(?:ly|er)?|excellent|great|good|well|top", 1),
    },
    "familyFriendly": {
        "no": rf"(?:not?|non|\w+n't|never|without)[- ]+(?:\w+[- ]){{0,4}}?{_MINORS}(?:[- ]friend\w*)?"
        rf"|{_MINORS}[- ]unfriendly|{_MINORS}(?: \w+)?(?: are)? (?:not|\w+n't)|adults?(?:[- ]only)?",
        "yes": rf"{_MINORS}|all ages",
    },
}
"""Slot -> value -> pattern, for slots with few values. Matched in lower case without accents."""

_WORDS = {
    "less than £20": "cheap",
    "£20-25": "moderate",
    "more than £30": "high",
    "1 out of 5": "low",
    "3 out of 5": "average",
    "5 out of 5": "high",
}
"""A value as a number -> the same value in words."""


@lru_cache(maxsize=1)
def _readers() -> dict[str, tuple[re.Pattern[str], tuple[str, ...]]]:
    """Slot -> (pattern with one group per value, values); the earlier value wins if two match."""
    return {
        slot: (re.compile(r"\b(?:" + "|".join(f"({pattern})" for pattern in values.values()) + r")\b"), tuple(values))
        for slot, values in PATTERNS.items()
    }


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """Lower case, without accents, single spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("\u2019", "'"))
    return " ".join("".join(c for c in decomposed if not unicodedata.combining(c)).split())


def slot_errors(response: str, slots: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(number of slots that the response does not express, number of expressed values that are not in the meaning).

    Slots or values without a pattern (name, near) must occur literally and are never counted as added.
    """
    said = _plain(response)
    meant: set[tuple[str, str]] = set()
    missing = 0
    for slot, value in slots:
        word = _WORDS.get(value, value)
        if word in PATTERNS.get(slot, ()):
            meant.add((slot, word))
            continue
        literal = _plain(value)
        missing += literal not in said
        said = said.replace(literal, "_")  # else Raja Indian Cuisine, a place nearby, would say Indian food
    stated = {
        (slot, values[match.lastindex - 1])
        for slot, (pattern, values) in _readers().items()
        for match in pattern.finditer(said)
        if match.lastindex
    }
    return missing + len(meant - stated), len(stated - meant)


RECORDS = (
    Task(
        name="e2e",
        summary="Restaurants: a meaning representation to a sentence or two, several human references (E2E, cleaned).",
        params=E2EParams,
        load=load,
        dataset=HUB.id,
        revision=HUB.revision,
        licence="CC BY-SA 4.0",
        redistributable=False,
        metrics=("missing-slots", *(metric for metric in METRICS if metric != "missing-slots")),
        student="tiny",
        hub=lambda params: HUB if params.path is None else None,
        require=lambda params: require("e2e", params.path, HUB),
    ),
)
