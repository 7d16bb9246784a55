"""Correctness of the answer of a worked solution."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Literal

from plad_bench import Metric, MissingError, Need, Params, Scored, Scorers, param
from plad_bench_plugins.metrics._answers import ExtractedAnswer, answer


class FinalAnswerParams(Params):
    """Parameters of final-answer."""

    compare: Literal["number", "math-verify"] = param("number", source="ours")
    """Compare answers as numbers, or as mathematical expressions with the package math-verify, which recognises that
    \\frac{1}{2} equals 0.5 and x+1 equals 1+x."""


def require(params: FinalAnswerParams) -> None:
    """Check that math-verify is installed if it is needed.

    Raises:
        MissingError: if it is not.
    """
    if params.compare == "math-verify" and find_spec("math_verify") is None:
        raise MissingError(
            "final-answer[compare=math-verify] needs the package math-verify",
            "Install it: pip install 'plad-bench[math]'.",
        )


def score(examples: Sequence[Scored], params: FinalAnswerParams | None, scorers: Scorers) -> list[float]:
    """1 if the response's answer equals that of a reference, else 0; NaN if no reference has an answer to compare."""
    right = _same_expression if params is not None and params.compare == "math-verify" else _same_number
    return [right(example) for example in examples]


def _same_number(example: Scored) -> float:
    wanted = {number for reference in example.references if (number := answer(reference).number) is not None}
    return float(answer(example.response).number in wanted) if wanted else math.nan


def _same_expression(example: Scored) -> float:
    from math_verify import verify

    seconds = 5 if threading.current_thread() is threading.main_thread() else None  # its alarm needs the main thread
    wanted = [parsed for reference in example.references if (parsed := _parsed(answer(reference), seconds))]
    given = _parsed(answer(example.response), seconds) if wanted else []
    found = any(verify(one, given, timeout_seconds=seconds) for one in wanted) if given else False
    return float(found) if wanted else math.nan


def _parsed(found: ExtractedAnswer, seconds: int | None) -> list[object]:
    from math_verify import parse

    text = f"\\boxed{{{found.text}}}" if found.marked and "$" not in found.text else found.text
    return list(parse(text, parsing_timeout=seconds)) or list(parse(found.text, parsing_timeout=seconds))


RECORDS = (
    Metric(
        name="final-answer",
        summary="Share of responses whose answer equals a reference's.",
        version=2,
        better="higher",
        unit="%",
        success=1.0,
        cost="text alone",
        needs=frozenset({Need.REFERENCES}),
        formula="1 if the response's answer equals that of a reference, else 0. The answer is the first marked one: "
        "after ####, in \\boxed{}, or after 'the answer is'; without a mark, the last number before an invented next "
        "question, if there is one",
        params=FinalAnswerParams,
        require=require,
        score=score,
    ),
)
