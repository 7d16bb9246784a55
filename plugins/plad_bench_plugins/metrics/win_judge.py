"""Win rate by a language model that judges which of two responses is better, at an OpenAI-compatible endpoint.

Each pair is judged in both orders, since judges prefer a position. Verdicts are cached as they arrive, so an
interrupted stage sends no request twice, and are kept beside the values.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from plad_bench import Asks, Metric, MissingError, Need, Scored, StageError, Tools, param
from plad_bench.contract.words import canonical
from plad_bench_plugins._openai import Answer, EndpointParams, ask

SYSTEM = (
    "You compare two responses to the same request. Judge how well each does what is asked: whether it is right, "
    "complete, relevant and well written. Neither their order nor their length is a reason to prefer one. "
    "Answer with a single word: A, B or tie."
)
TEXT = "Request:\n{prompt}\n\nResponse A:\n{a}\n\nResponse B:\n{b}\n\nWhich is better: A, B or tie?"
VERDICT = re.compile(r"\W*(?:response\s+|a\s+(?=tie))?(a|b|tie)\W*", re.IGNORECASE)
"""The complete last line: a word within a sentence is not a verdict."""


class JudgeParams(EndpointParams):
    """The judge and its settings."""

    max_tokens: int = param(16, ge=1, source="ours")
    """Length limit of a verdict; raise it for a judge that reasons first, whose last line then counts."""
    max_unreadable: float = param(0.1, ge=0, le=1, keyed=False, source="ours")
    """Maximum share of unreadable verdicts; beyond it the stage fails."""


def require(params: JudgeParams) -> None:
    """Check that there is a key, and a server at the address.

    Raises:
        MissingError: if not.
    """
    import httpx2

    params.key()
    try:
        httpx2.get(params.base_url, timeout=10.0)
    except httpx2.HTTPError as error:
        raise MissingError(
            f"the endpoint of judge {params.model} does not answer ({type(error).__name__})",
            "Start it, or correct base_url= and the network.",
        ) from None


def asks(params: JudgeParams) -> Asks:
    """Both orders of the two responses to a prompt."""
    words = len((SYSTEM + TEXT).encode()) // 4
    return Asks(requests=2, texts=2, extra_in=words, tokens_out=params.max_tokens, price=params.price)


def score(examples: Sequence[Scored], params: JudgeParams, tools: Tools) -> list[float]:
    """Mean over both orders of 1 if the response wins, 0.5 on a tie, 0 if the teacher's wins.

    NaN if either verdict is unreadable. Equal texts are a tie without a request.
    """
    named = list(zip(_names(examples), examples, strict=True))
    requests = {
        f"{name}/{order}": params.body(_text(e, order), max_tokens=params.max_tokens, system=SYSTEM, temperature=0)
        for name, e in named
        if not _same(e)
        for order in ("first", "second")
    }
    answers = ask(
        params, requests, tools.response_cache, budget=tools.budget, progress=tools.progress, counts=tools.counts
    )
    wins = {id_: win(answer, first=id_.endswith("/first")) for id_, answer in answers.items()}
    unreadable = [id_ for id_, value in wins.items() if math.isnan(value)]
    tools.counts |= {"judged": len(wins), "unreadable": len(unreadable)}
    if len(unreadable) > params.max_unreadable * len(wins):
        said = answers[unreadable[0]].text.strip()[:60]
        raise StageError(
            f"{len(unreadable)} of {len(wins)} verdicts of judge {params.model} are none of A, B and tie, among them "
            f"{said!r}",
            "Raise max_tokens= for a judge that reasons first, choose another judge, or raise max_unreadable=.",
        )
    return [_value(name, e, wins) for name, e in named]


def win(answer: Answer, *, first: bool) -> float:
    """1, 0.5 or 0 for the response that was A if `first`, else B; NaN for an unreadable verdict."""
    lines: list[Any] = [VERDICT.fullmatch(line) for line in answer.text.strip().splitlines() if line.strip()]
    if not lines or lines[-1] is None:
        return math.nan
    verdict = lines[-1][1].lower()
    return 0.5 if verdict == "tie" else float((verdict == "a") == first)


def _names(examples: Sequence[Scored]) -> list[str]:
    """An id for each pair: its example's, numbered if a metric has several responses to one prompt judged."""
    seen: Counter[str] = Counter()
    names = []
    for e in examples:
        names.append(f"{e.id}/{seen[e.id]}" if seen[e.id] else e.id)
        seen[e.id] += 1
    return names


def _text(example: Scored, order: str) -> str:
    mine, theirs = example.response, example.teacher or ""
    a, b = (mine, theirs) if order == "first" else (theirs, mine)
    return TEXT.format(prompt=example.prompt, a=a, b=b)


def _same(example: Scored) -> bool:
    return canonical(example.response) == canonical(example.teacher or "")


def _value(name: str, example: Scored, wins: Mapping[str, float]) -> float:
    if _same(example):
        return 0.5
    return (wins[f"{name}/first"] + wins[f"{name}/second"]) / 2


RECORDS = (
    Metric(
        name="win-judge",
        summary="Share of responses that a language model, asked in both orders, prefers to the teacher's.",
        better="higher",
        unit="%",
        cost="two requests per prompt to an endpoint, which may cost money",
        formula="mean over both orders of 1 if the judge prefers the response, 0.5 for a tie, else 0; NaN if a "
        "verdict is unreadable; equal texts are a tie without a request",
        needs=frozenset({Need.TEACHER}),
        require=require,
        asks=asks,
        params=JudgeParams,
        score=score,
    ),
)
