"""Fidelity: the distance between next-token distributions of student and teacher on the references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plad_bench import Metric, Need, Params, Scored, Tools
from plad_bench_plugins.metrics._texts import means, on_references

if TYPE_CHECKING:
    from torch import Tensor

_NEEDS = frozenset({Need.CHECKPOINT, Need.TEACHER_LOGITS, Need.REFERENCES})
_COST = "one forward pass of student and teacher over the references"


def fidelity(examples: Sequence[Scored], params: Params, tools: Tools) -> list[float]:
    """Mean KL(p||q) over the tokens of the references, in nats; NaN without references."""
    return means(on_references(examples, tools.checkpoint(), _kl, tools.teacher()))


def top_1(examples: Sequence[Scored], params: Params, tools: Tools) -> list[float]:
    """Share of the references' tokens at which both have the same most likely token; NaN without references."""
    return means(on_references(examples, tools.checkpoint(), _same, tools.teacher()))


def _kl(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    from plad_bench.learn.divergences import forward_kl

    return forward_kl(student, teacher)[:, None]


def _same(student: Tensor, teacher: Tensor, labels: Tensor) -> Tensor:
    return (student.argmax(-1) == teacher.argmax(-1)).to(student.dtype)[:, None]


RECORDS = (
    Metric(
        name="fidelity",
        summary="KL(teacher||student) per token of the references.",
        better="lower",
        unit="nats",
        cost=_COST,
        formula="mean over the tokens of its references of KL(p||q)",
        needs=_NEEDS,
        score=fidelity,
    ),
    Metric(
        name="fidelity-top1",
        summary="Share of the references' tokens at which student and teacher have the same most likely token.",
        better="higher",
        unit="%",
        cost=_COST,
        formula="share of the tokens of its references with argmax p = argmax q",
        needs=_NEEDS,
        score=top_1,
    ),
)
