"""DPKD: at every position, prefers the teacher's first choice to the student's by more than the teacher does."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, TokenObjective, param
from plad_bench_plugins.methods._params import TokenParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class DPKDParams(TokenParams):
    """Parameters of dpkd."""

    beta: float = param(0.1, ge=0, search=(0.02, 2.0, "log"), source="arXiv:2406.19774")
    """Scale of the preference."""
    ce_weight: float = param(0.5, ge=0, le=1, search=(0.0, 0.9), source="ours")
    """Weight of cross-entropy."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: DPKDParams) -> Tensor:
    """-log sigmoid(beta [(log q(y_t) - log q(y_s)) - (log p(y_t) - log p(y_s))]), [N] (Li et al. 2024).

    y_t and y_s are the most likely tokens of teacher and student. If they are equal, the loss is log 2 without
    gradient. Differences of log-probabilities are computed from logits.
    """
    from torch.nn.functional import logsigmoid

    from plad_bench.learn.divergences import soften

    y_t, y_s = teacher.argmax(-1, keepdim=True), student.argmax(-1, keepdim=True)
    q_gap = soften(student.gather(-1, y_t)) - soften(student.gather(-1, y_s))
    p_gap = soften(teacher.gather(-1, y_t)) - soften(teacher.gather(-1, y_s))
    preference = -logsigmoid(params.beta * (q_gap - p_gap)).squeeze(-1)
    return with_cross_entropy(preference, student, labels, params.ce_weight)


RECORDS = (
    Method(
        name="dpkd",
        summary="Token-level preference of the teacher's first choice over the student's, mixed with cross-entropy.",
        paper="arXiv:2406.19774",
        title="Direct Preference Knowledge Distillation for Large Language Models",
        equation="ce_weight CE(y) + (1 - ce_weight) -log sigmoid(beta [log q(y_t)/q(y_s) - log p(y_t)/p(y_s)]), "
        "y_t = argmax p, y_s = argmax q",
        access=Access.LOGITS,
        params=DPKDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=lambda params: params.data),)),
    ),
)
