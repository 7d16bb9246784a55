"""A control for on-policy methods: training on on-policy text without any information from the teacher."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective, param

if TYPE_CHECKING:
    from torch import Tensor


class PlaceboParams(MethodParams):
    """The constant that replaces OPD's log-ratio of the teacher."""

    advantage: float = param(-1.0, lt=0, source="ours")
    """The reward of every sampled token, in nats."""


def loss(student: Tensor, _teacher: Tensor | None, labels: Tensor, params: PlaceboParams) -> Tensor:
    """-A log q(y), [N], A constant and y sampled from the student at this step: `opd` without its teacher."""
    from plad_bench.learn.divergences import cross_entropy

    return params.advantage * cross_entropy(student, labels)


RECORDS = (
    Method(
        name="placebo",
        summary="Policy gradient on on-policy text with one constant negative reward; no teacher.",
        paper="arXiv:2608.31046",
        title="On-policy distillation with a constant advantage",
        equation="-A log q(y), A = -1, y ~ q",
        access=Access.NONE,
        control=True,
        params=PlaceboParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.STUDENT),), teacher_logits=False),
        step_cost="samples a response of the student for every prompt",
    ),
)
