"""The words of the demo task: phrases for every slot and value of a guided walk.

A phrase has one key in square brackets. Each key has one value, so that texts can be parsed exactly. Lists are ordered
from common to rare and are sampled with Zipf's weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NAME = "name"
NAMES = (
    "Fernside Loop", "Otterbrook Way", "Kestrel Trail", "Larkfield Circuit", "Hollin Path", "Pendle Round",
    "Sable Loop", "Thornby Way", "Marrow Trail", "Wexcombe Circuit", "Quillan Path", "Rushmere Round",
)  # fmt: skip
PLACES = ("Copper Forge", "Linden Inn", "Old Station", "Tinker Bridge", "Lower Gate", "Market Hall")
NOUNS = ("walk", "guided walk", "hike", "route", "outing", "ramble")


@dataclass(frozen=True)
class Phrases:
    """The phrases of a value, by syntactic role; empty if it has none for a role."""

    adjectives: tuple[str, ...] = ()
    """Before the noun: "a [hard] walk"."""
    adverbials: tuple[str, ...] = ()
    """After the noun or the verb: "a walk through [woodland]"."""
    verbs: tuple[str, ...] = ()
    """After a singular subject: "it [costs nothing]"."""
    clauses: tuple[str, ...] = ()
    """On its own: "[dogs are welcome]"."""


def _fill(frames: Sequence[str], words: Sequence[str]) -> tuple[str, ...]:
    """Every combination of frames and words, the common ones first."""
    ranked = sorted(((i + 1) * (j + 1), i, j) for i in range(len(frames)) for j in range(len(words)))
    return tuple(frames[i].format(words[j]) for _, i, j in ranked)


def _length(kilometres: int, word: str) -> Phrases:
    amounts = (f"[{kilometres} km]", f"[{word} kilometres]", f"[{kilometres} kilometres]")
    return Phrases(
        adjectives=(f"[{kilometres} km]", f"[{word}-kilometre]", f"[{kilometres}-kilometre]"),
        adverbials=_fill(("of {}", "over {}"), amounts),
        verbs=_fill(("is {} long", "covers {}", "stretches for {}", "measures {}"), amounts),
        clauses=_fill(("you will walk {}", "the distance is {}", "there are {} to cover"), amounts),
    )


def _level(*words: str) -> Phrases:
    keys = tuple(f"[{word}]" for word in words)
    return Phrases(
        adjectives=keys,
        adverbials=_fill(("with {} going",), keys),
        verbs=_fill(("is {}", "is rated {}", "is considered {}", "feels {}"), keys),
        clauses=_fill(("the going is {}", "the pace is {}", "walkers call it {}"), keys),
    )


def _terrain(adjectives: tuple[str, ...], wheres: tuple[str, ...]) -> Phrases:
    return Phrases(
        adjectives=adjectives,
        adverbials=wheres,
        verbs=_fill(("runs {}", "leads {}", "takes you {}", "goes {}", "winds {}"), wheres),
        clauses=_fill(("you will walk {}", "the path goes {}", "the route follows a path {}"), wheres),
    )


def _guide(*people: str) -> Phrases:
    keys = tuple(f"a [{person}]" for person in people)
    return Phrases(
        adjectives=(f"[{people[0]}-led]",),
        adverbials=_fill(("led by {}", "with {}", "guided by {}"), keys),
        verbs=_fill(("is led by {}", "is guided by {}", "has {} as its guide"), keys),
        clauses=_fill(("your guide is {}", "{} leads the way", "{} will show you around"), keys),
    )


def _season(adjectives: tuple[str, ...], whens: tuple[str, ...]) -> Phrases:
    return Phrases(
        adjectives=adjectives,
        adverbials=whens,
        verbs=_fill(("takes place {}", "is offered {}", "is held {}", "is open {}"), whens),
        clauses=_fill(("you can join {}", "it is best done {}", "places can be booked {}"), whens),
    )


def _price(adjectives: tuple[str, ...], amounts: tuple[str, ...]) -> Phrases:
    return Phrases(
        adjectives=adjectives,
        adverbials=_fill(("for {}", "at {}"), amounts),
        verbs=(*_fill(("costs {}", "is priced at {}"), amounts), *_fill(("is {}",), adjectives)),
        clauses=_fill(("the price is {}", "you pay {}", "a ticket costs {}"), amounts),
    )


def _start(place: str) -> Phrases:
    key = (f"the [{place}]",)
    return Phrases(
        adverbials=_fill(("from {}", "starting at {}"), key),
        verbs=_fill(("starts at {}", "sets off from {}", "begins at {}", "leaves from {}"), key),
        clauses=_fill(("the meeting point is {}", "you meet at {}", "the group gathers at {}"), key),
    )


def _food(*treats: str) -> Phrases:
    return Phrases(
        adverbials=_fill(("with {}", "with {} on the way", "including {}"), treats),
        verbs=_fill(("includes {}", "comes with {}", "offers {}"), treats),
        clauses=_fill(("{} is included", "there is {} on the way", "you can enjoy {}"), treats),
    )


LEXICON: dict[str, dict[str, Phrases]] = {
    "length": {
        "6 km": _length(6, "six"),
        "9 km": _length(9, "nine"),
        "13 km": _length(13, "thirteen"),
        "3 km": _length(3, "three"),
        "18 km": _length(18, "eighteen"),
    },
    "level": {
        "easy": _level("easy", "gentle", "undemanding", "relaxed"),
        "moderate": _level("moderate", "middling", "average", "mid-level"),
        "hard": _level("hard", "challenging", "strenuous", "tough", "demanding"),
    },
    "terrain": {
        "forest": _terrain(
            ("[forest]", "[woodland]"), ("through the [forest]", "through [woodland]", "among the [trees]")
        ),
        "coast": _terrain(("[coastal]", "[seaside]"), ("along the [coast]", "by the [sea]", "along the [shore]")),
        "river": _terrain(("[riverside]",), ("along the [river]", "by the [water]", "beside the [stream]")),
        "hills": _terrain(("[hill]", "[upland]"), ("over the [hills]", "across the [uplands]", "over the [hilltops]")),
        "moor": _terrain(("[moorland]",), ("across the [moor]", "over open [moorland]", "across the [heath]")),
    },
    "guide": {
        "ranger": _guide("ranger", "park ranger", "warden"),
        "historian": _guide("historian", "local historian", "history teacher"),
        "botanist": _guide("botanist", "plant expert", "gardener"),
        "storyteller": _guide("storyteller", "teller of tales", "local poet"),
    },
    "season": {
        "summer": _season(("[summer]",), ("in [summer]", "from [June to August]", "in the [warm months]")),
        "spring": _season(("[spring]",), ("in [spring]", "from [March to May]", "when the [flowers open]")),
        "autumn": _season(("[autumn]",), ("in [autumn]", "from [September to November]", "when the [leaves turn]")),
        "winter": _season(("[winter]",), ("in [winter]", "from [December to February]", "in the [cold months]")),
        "all year": _season(
            ("[year-round]",), ("[all year round]", "[throughout the year]", "in [every season]", "in [any month]")
        ),
    },
    "price": {
        "free": Phrases(
            adjectives=("[free]", "[no-cost]"),
            adverbials=("for [free]", "at [no cost]", "[free of charge]"),
            verbs=("is [free]", "costs [nothing]", "is [free of charge]", "comes at [no cost]"),
            clauses=("there is [no fee]", "you pay [nothing]", "there is [nothing] to pay", "[no ticket] is needed"),
        ),
        "under 10 euros": _price(
            ("[cheap]", "[inexpensive]", "[low-cost]"), ("[under 10 euros]", "[less than ten euros]", "[a low price]")
        ),
        "10-20 euros": _price(
            ("[mid-priced]", "[fairly priced]"), ("[10 to 20 euros]", "[between 10 and 20 euros]", "[a fair price]")
        ),
        "over 20 euros": _price(
            ("[expensive]", "[pricey]", "[costly]"), ("[over 20 euros]", "[more than twenty euros]", "[a high price]")
        ),
    },
    "dogs": {
        "yes": Phrases(
            adjectives=("[dog-friendly]",),
            adverbials=("with [dogs welcome]", "[open to dogs]"),
            verbs=("[welcomes dogs]", "is [dog-friendly]", "[allows dogs]", "is [open to dogs]"),
            clauses=("[dogs are welcome]", "[you can bring your dog]", "[dogs may come along]", "[pets are welcome]"),
        ),
        "no": Phrases(
            adjectives=("[dog-free]",),
            adverbials=("[without dogs]", "with [no dogs] allowed"),
            verbs=("[does not allow dogs]", "is [not open to dogs]", "is [not dog-friendly]", "is [closed to dogs]"),
            clauses=(
                "[dogs are not allowed]",
                "[dogs must stay at home]",
                "[no dogs] are allowed",
                "[pets are not welcome]",
            ),
        ),
    },
    "start": {place: _start(place) for place in PLACES},
    "food": {
        "picnic": _food("a [picnic]", "a [packed lunch]"),
        "tea": _food("[tea and cake]", "a [cream tea]", "a [tea-room stop]"),
        "pub lunch": _food("a [pub lunch]", "a [meal at the pub]"),
        "campfire": _food("a [campfire supper]", "[soup by the fire]"),
    },
}
"""Slot -> value -> its phrases, for all slots but the name. Values are ordered from common to rare."""
