"""OPD: samples on-policy, and reinforces tokens that the teacher finds more likely than the student."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import Trace


def advantage(trace: Trace, _params: MethodParams) -> Tensor:
    """A = -(log q - log p)(y), [B, T], y on-policy; discount 0.

    In expectation over y, the gradient of -A log q(y) is that of KL(q||p). It needs the teacher's log-probability of a
    single token.
    """
    return trace.teacher - trace.student


RECORDS = (
    Method(
        name="opd",
        summary="On-policy distillation: policy gradient with the teacher's log-ratio as each token's reward.",
        paper="Lu and Thinking Machines Lab (2025)",
        title="On-Policy Distillation",
        equation="-sg(log p(y) - log q(y)) log q(y), y ~ q",
        access=Access.TOKEN_LOGPROBS,
        params=MethodParams,
        objective=TokenObjective(terms=(Term(advantage=advantage, text=Text.STUDENT),)),
        step_cost="samples a response of the student for every prompt",
    ),
)
