"""e2e: the E2E restaurant data, cleaned. A meaning representation to a sentence or two, several human references.

Ondrej Dusek, David M. Howcroft and Verena Rieser (2019): Semantic Noise Matters for Neural Natural Language
Generation. INLG, W19-8652. All the files' rows are pooled; the harness groups them by meaning and splits anew.
The reading of a text is by keywords of our own, one pattern for each value. Words and numbers for the same thing
(cheap, less than £20) count as the same value. Missing slots are reliable; added ones are noisier, because a keyword
may stand in the text for another reason.
"""

from __future__ import annotations

import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from plad_bench import Example, MissingError, Params, StageError, Task, param
from plad_bench_plugins.tasks.demo import METRICS

HUB_ID = "tuetschek/e2e_nlg_cleaned"
REVISION = "refs/convert/parquet"
"""The hub's parquet conversion: the repository itself holds a loading script, which `datasets` 4 and later refuse."""

_SLOT = re.compile(r"\s*(\w[\w ]*)\[([^\[\]]+)\]\s*")


class E2EParams(Params):
    """Parameters of e2e."""

    path: Path | None = param(None, local=True)
    """Directory with the cleaned data's CSV files (columns mr and ref); without it they come from the hub."""


# -------------------------------------------------------------------------------------------------------- reading


def require(params: E2EParams) -> None:
    """Check that the data can be had.

    Raises:
        MissingError: if the directory holds no CSV file, or the hub is meant and `datasets` is not installed or the
            hub cannot be reached.
    """
    if params.path is not None:
        _files(params.path)
    elif find_spec("datasets") is None:
        raise MissingError(
            f"task e2e reads {HUB_ID} from the hub, which needs the package `datasets`",
            "pip install 'plad-bench[hub]', or give a directory of its CSV files: --task 'e2e[path=DIR]'.",
        )
    else:
        _reach_hub()


def _reach_hub() -> None:
    from huggingface_hub import HfApi, constants

    if constants.HF_HUB_OFFLINE:  # then `datasets` reads its own cache
        return
    try:
        HfApi().dataset_info(HUB_ID, timeout=10)
    except Exception as error:  # noqa: BLE001  which HTTP library the hub's client stands on changes with its version
        raise MissingError(
            f"task e2e reads {HUB_ID} from the hub, which cannot be reached ({type(error).__name__})",
            "Connect to the network, set HF_HUB_OFFLINE=1 if the data was loaded before, "
            "or give a directory of its CSV files: --task 'e2e[path=DIR]'.",
        ) from None


def load(params: E2EParams) -> Iterator[Example]:
    """One example for each row.

    Raises:
        MissingError: if the data cannot be had.
        StageError: naming the file and line of a row that cannot be read.
    """
    rows = _hub_rows() if params.path is None else _csv_rows(params.path)
    for meaning, reference, origin in rows:
        yield Example(
            prompt=meaning,
            references=(reference,),
            meta={"slots": parse(meaning, origin), "matcher": "plad_bench_plugins.tasks.e2e:slot_errors"},
        )


def parse(meaning: str, origin: str) -> list[tuple[str, str]]:
    """(slot, value) pairs of `name[Alimentum], area[city centre]`; a slot may come twice with different values.

    Raises:
        StageError: naming `origin`, if the text is anything else.
    """
    parts = re.split(r",(?![^\[]*\])", meaning)
    matches = [match for part in parts if (match := _SLOT.fullmatch(part))]
    if len(matches) < len(parts):
        raise StageError(
            f"{origin}: not a meaning representation: {meaning!r}",
            "Write it as slot[value], slot[value], or remove the row.",
        )
    return [(match[1], match[2]) for match in matches]


def _files(path: Path) -> list[Path]:
    files = sorted(path.glob("*.csv")) if path.is_dir() else []
    if not files:
        raise MissingError(
            f"task e2e: {path} is not a directory with CSV files",
            "Give the directory of the cleaned E2E data with 'e2e[path=DIR]', or leave path out to read the hub's.",
        )
    return files


def _csv_rows(path: Path) -> Iterator[tuple[str, str, str]]:
    """(meaning, reference, "file, line n") of every row of every file."""
    for file in _files(path):
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError as error:
            raise StageError(f"{file.name}: not UTF-8: {error}", "Save the file as UTF-8.") from None
        reader = csv.DictReader(io.StringIO(text, newline=""))
        absent = {"mr", "ref"} - set(reader.fieldnames or ())
        if absent:
            raise StageError(
                f"{file.name}, line 1: no column {' and '.join(sorted(absent))}",
                "Each CSV file of the directory needs a header with the columns mr and ref.",
            )
        for row in reader:
            origin = f"{file.name}, line {reader.line_num}"
            if not row["mr"] or not row["ref"]:
                raise StageError(f"{origin}: mr or ref is empty", "Complete the row or remove it.")
            yield row["mr"], row["ref"], origin


def _hub_rows() -> Iterator[tuple[str, str, str]]:
    """(meaning, reference, "id, split, row n") of every row on the hub."""
    try:
        from datasets import load_dataset

        splits = load_dataset(HUB_ID, revision=REVISION)
    except Exception as error:  # the hub's client raises many kinds, offline or when an id moved
        raise MissingError(
            f"task e2e: cannot load {HUB_ID} ({REVISION}) from the hub: {type(error).__name__}: {error}",
            "Check the network, or give a directory of its CSV files: --task 'e2e[path=DIR]'.",
        ) from error
    for name, split in splits.items():
        for i, row in enumerate(split):
            yield row["meaning_representation"], row["human_reference"], f"{HUB_ID}, {name}, row {i}"


# ------------------------------------------------------------------------------------------------------- matching

_MINORS = r"(?:famil(?:y|ies)|child(?:ren)?s?|kids?|minors?)"
_PRICE = r"(?:pric(?:e[sd]?|ing|e range)|cost(?:s|ing)?)"
_RATING = r"(?:rat(?:ed?|ings?)|reviews?|rank(?:ed|ing)?s?|approv(?:al|ed)|customers?|satisfaction|feedback|scores?)"


def _of(subject: str, words: str, between: int) -> str:
    """One of the words, at most `between` words before or four words after which comes what it is said of."""
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
"""Slot -> value -> what says it, for the slots with few values. Matched in lower case without accents."""

_WORDS = {
    "less than £20": "cheap",
    "£20-25": "moderate",
    "more than £30": "high",
    "1 out of 5": "low",
    "3 out of 5": "average",
    "5 out of 5": "high",
}
"""A value in numbers -> the same in words."""


@lru_cache(maxsize=1)
def _readers() -> dict[str, tuple[re.Pattern[str], tuple[str, ...]]]:
    """Slot -> (pattern with one group for each value, the values): an earlier value wins where two could match."""
    return {
        slot: (re.compile(r"\b(?:" + "|".join(f"({pattern})" for pattern in values.values()) + r")\b"), tuple(values))
        for slot, values in PATTERNS.items()
    }


@lru_cache(maxsize=4096)
def _plain(text: str) -> str:
    """Lower case, without accents, single spaces."""
    decomposed = unicodedata.normalize("NFKD", text.lower().replace("\u2019", "'"))
    return " ".join("".join(c for c in decomposed if not unicodedata.combining(c)).split())


def slot_errors(text: str, slots: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(slots of the meaning, as [slot, value], that the text does not state; statements that are not in it).

    A slot or value without a pattern (name, near) must be there literally and is never counted as added.
    """
    text = _plain(text)
    meant: set[tuple[str, str]] = set()
    missing = 0
    for slot, value in slots:
        word = _WORDS.get(value, value)
        if word in PATTERNS.get(slot, ()):
            meant.add((slot, word))
            continue
        literal = _plain(value)
        missing += literal not in text
        text = text.replace(literal, "_")  # else Raja Indian Cuisine, a place nearby, would say Indian food
    stated = {
        (slot, values[match.lastindex - 1])
        for slot, (pattern, values) in _readers().items()
        for match in pattern.finditer(text)
        if match.lastindex
    }
    return missing + len(meant - stated), len(stated - meant)


RECORDS = (
    Task(
        name="e2e",
        summary="Restaurants: a meaning representation to a sentence or two, several human references (E2E, cleaned).",
        params=E2EParams,
        load=load,
        dataset=HUB_ID,
        revision=REVISION,
        licence="CC BY-SA 4.0",
        redistributable=False,
        metrics=("missing-slots", *(metric for metric in METRICS if metric != "missing-slots")),
        student="tiny",
        require=require,
    ),
)
