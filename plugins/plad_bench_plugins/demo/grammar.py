"""The demo task's data: meanings of guided walks, sentences that state them, and an exact parser.

A meaning is a name and two to six other slots. `realise` plans which slots go into which sentence and in which role,
then picks frames and phrases with Zipf's weights; `read` finds every (slot, value) that a text states.
All of it was written for this project; nothing comes from a corpus.
"""

from __future__ import annotations

import re
from bisect import bisect
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from random import Random
from typing import TypeVar

from plad_bench_plugins.demo.lexicon import LEXICON, NAME, NAMES, NOUNS, Phrases

T = TypeVar("T")

MEANINGS = 3600
SEED = 20240602
MAX_ADJECTIVES = 2
_KEY = re.compile(r"\[([^\]]*)\]")
_WORD = re.compile(r"\w+")
_EVENTS = {"terrain", "guide", "season", "start"}
"""Slots whose verb phrase can take one of the _ADVERBIALS."""
_ADVERBIALS = {*_EVENTS, "food"}
_FRONTABLE = {"season", "start", "terrain"}
_ADJECTIVES = ("level", "price", "length", "dogs", "season", "guide", "terrain")
"""English order of adjectives before a noun."""

# ---------------------------------------------------------------------------------------------------- meanings


def meanings(count: int = MEANINGS, seed: int = SEED) -> Iterator[dict[str, str]]:
    """`count` different meanings: slot -> value, the name first, 3 to 7 slots each; common values are more frequent."""
    rng = Random(seed)
    seen: set[str] = set()
    while len(seen) < count:
        size = rng.choices((2, 3, 4, 5, 6), (1, 3, 5, 4, 2))[0]
        chosen = set(rng.sample(list(LEXICON), size))
        meaning = {NAME: _zipf(rng, NAMES, 0.5)}
        meaning |= {slot: _zipf(rng, tuple(values), 0.5) for slot, values in LEXICON.items() if slot in chosen}
        prompt = linearise(meaning)
        if prompt not in seen:
            seen.add(prompt)
            yield meaning


def linearise(meaning: Mapping[str, str]) -> str:
    """Write a meaning as a prompt: `name[Fernside Loop] length[9 km]`."""
    return " ".join(f"{slot}[{value}]" for slot, value in meaning.items())


# ------------------------------------------------------------------------------------------------ realisation


def realise(meaning: Mapping[str, str], rng: Random) -> str:
    """An English wording of a meaning, determined by the meaning and the generator's state."""
    order = {slot: i for i, slot in enumerate(LEXICON)}
    slots = [slot for slot in meaning if slot != NAME]
    # people name things in roughly the same order, rarely exactly
    slots.sort(key=lambda slot: order[slot] + 6 * rng.random())
    first = min(len(slots), rng.choices((1, 2, 3, 4), (2, 4, 3, 1))[0])
    writer = _Writer(meaning, rng)
    sentences = [writer.opening(slots[:first])]
    rest = slots[first:]
    while rest:
        size = min(len(rest), rng.choices((1, 2, 3), (3, 5, 1))[0])
        sentences.append(writer.sentence(rest[:size]))
        rest = rest[size:]
    return " ".join(sentences)


class _Writer:
    """Writes the sentences of one text. Each sentence states exactly the slots it is given, each once."""

    def __init__(self, meaning: Mapping[str, str], rng: Random) -> None:
        self.rng = rng
        self.name = ("the " if rng.random() < 0.35 else "") + meaning[NAME]
        self.phrases = {slot: LEXICON[slot][value] for slot, value in meaning.items() if slot != NAME}

    def opening(self, slots: Sequence[str]) -> str:
        """Write the first sentence, which also gives the name."""
        frames: tuple[Callable[[Sequence[str]], str], ...] = (
            lambda s: f"{self.name} is {self._walk(s)}.",
            lambda s: f"{self.name} is {self._walk(s[:-1])} that {self._verb(s[-1])}.",
            lambda s: f"{self.name} {self._verbs(s)}.",
            lambda s: f"there is {self._walk(s)} called {self.name}.",
            lambda s: f"{self.name}, {self._walk(s[:-1])}, {self._verb(s[-1])}.",
            lambda s: f"looking for {self._walk(s)}? {_capital(self._choose(('try', 'choose', 'join')))} {self.name}.",
            lambda s: f"{self._walk(s[:-1])}, {self.name} {self._verb(s[-1])}.",
            lambda s: f"if you want {self._walk(s)}, {self._choose(('try', 'choose', 'join'))} {self.name}.",
            lambda s: f"on {self.name}, {self._clauses(s)}.",
        )
        return self._finish(self._choose(frames)(slots))

    def sentence(self, slots: Sequence[str]) -> str:
        """Write a later sentence about one to three slots."""
        head, last = slots[0], slots[-1]
        frames: list[Callable[[], str]] = [
            lambda: f"{self._subject()} {self._verbs(slots)}.",
            lambda: f"{self._clauses(slots)}.",
        ]
        if len(slots) > 1:
            frames.insert(1, lambda: f"{self._subject()} {self._verbs(slots[:-1])}, and {self._clause(last)}.")
            if head in _FRONTABLE:
                frames.append(lambda: f"{self._pick(self.phrases[head].adverbials)}, {self._clauses(slots[1:])}.")
        if self.phrases[head].adjectives:
            frames.append(lambda: f"{self._subject()} is {self._walk(slots)}.")
        return self._finish(self._choose(frames)())

    def _walk(self, slots: Sequence[str]) -> str:
        """Write a noun phrase: adjectives, noun, adverbials."""
        early = [slot for slot in slots if self.phrases[slot].adjectives and self.rng.random() < 0.65][:MAX_ADJECTIVES]
        late = [slot for slot in slots if slot not in early]
        before = [self._pick(self.phrases[slot].adjectives) for slot in sorted(early, key=_ADJECTIVES.index)]
        # "of 9 km" stands closest to the noun
        after = [self._pick(self.phrases[slot].adverbials) for slot in sorted(late, key=lambda slot: slot != "length")]
        words = " ".join((*before, self._choose(NOUNS), *after))
        bare = words.lstrip("[")
        article = "an" if bare[0] in "aeiou" or bare.startswith("18") else "a"
        return f"{article} {words}"

    def _verbs(self, slots: Sequence[str]) -> str:
        """Write a verb phrase about all the slots; an adverbial replaces a further verb if possible."""
        parts: list[str] = []
        previous = ""
        for slot in slots:
            if previous in _EVENTS and slot in _ADVERBIALS and self.rng.random() < 0.6:
                parts[-1] += " " + self._pick(self.phrases[slot].adverbials)
            else:
                parts.append(self._verb(slot))
                previous = slot
        return _join(parts)

    def _clauses(self, slots: Sequence[str]) -> str:
        """Write main clauses, one for each slot."""
        clauses = [self._clause(slot) for slot in slots]
        return clauses[0] if len(clauses) == 1 else ", ".join(clauses[:-1]) + ", and " + clauses[-1]

    def _verb(self, slot: str) -> str:
        return self._pick(self.phrases[slot].verbs)

    def _clause(self, slot: str) -> str:
        return self._pick(self.phrases[slot].clauses)

    def _subject(self) -> str:
        return self._choose(("it", "the walk", "this walk", "the route", "this one"))

    def _pick(self, phrases: Sequence[str]) -> str:
        return _zipf(self.rng, tuple(phrases))

    def _choose(self, options: Sequence[T]) -> T:
        return _zipf(self.rng, options)

    @staticmethod
    def _finish(sentence: str) -> str:
        return _capital(sentence.replace("[", "").replace("]", ""))


def _join(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def _zipf(rng: Random, options: Sequence[T], exponent: float = 1.0) -> T:
    """One of the options, the k-th with probability proportional to k^-exponent."""
    sums = _cumulative(len(options), exponent)
    return options[bisect(sums, rng.random() * sums[-1], 0, len(options) - 1)]  # as `choices` does, in half its time


@lru_cache
def _cumulative(count: int, exponent: float) -> tuple[float, ...]:
    return tuple(accumulate(rank**-exponent for rank in range(1, count + 1)))


# ---------------------------------------------------------------------------------------------- reading back


def readings() -> Iterator[tuple[str, str, str]]:
    """(key, slot, value) of every phrase, lower-case; a key is repeated for each of its phrases."""
    for name in NAMES:
        yield name.lower(), NAME, name
    for slot, values in LEXICON.items():
        for value, phrases in values.items():
            for phrase in _all(phrases):
                for key in _KEY.findall(phrase):
                    yield key.lower(), slot, value


def _all(phrases: Phrases) -> tuple[str, ...]:
    return (*phrases.adjectives, *phrases.adverbials, *phrases.verbs, *phrases.clauses)


@lru_cache(maxsize=1)
def _index() -> dict[str, list[tuple[str, tuple[str, str]]]]:
    """First word of a key -> keys that begin with it, the longest first, and their meanings."""
    index: dict[str, dict[str, tuple[str, str]]] = {}
    for key, slot, value in readings():
        word = _WORD.match(key)
        assert word is not None, key  # noqa: S101  a key begins with a word
        index.setdefault(word.group(), {})[key] = (slot, value)
    return {word: sorted(found.items(), key=lambda item: -len(item[0])) for word, found in index.items()}


def read(text: str) -> set[tuple[str, str]]:
    """Every (slot, value) that the text states, by the longest key at each word, from left to right."""
    text = text.lower()
    index = _index()
    found: set[tuple[str, str]] = set()
    end = 0
    for word in _WORD.finditer(text):
        start = word.start()
        if start < end:
            continue
        for key, meaning in index.get(word.group(), ()):
            stop = start + len(key)
            if text.startswith(key, start) and not text[stop : stop + 1].isalnum():
                found.add(meaning)
                end = stop
                break
    return found


def slot_errors(text: str, slots: Sequence[Sequence[str]]) -> tuple[int, int]:
    """(slots of the meaning, as [slot, value], missing in the text; statements that are not in the meaning)."""
    stated, meant = read(text), {(slot, value) for slot, value in slots}
    return len(meant - stated), len(stated - meant)
