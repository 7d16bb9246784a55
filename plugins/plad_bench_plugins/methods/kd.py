"""Vanilla knowledge distillation: match the teacher's softened next-token distribution."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, TokenObjective, param
from plad_bench_plugins.methods._params import TokenParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class KDParams(TokenParams):
    """Parameters of kd."""

    ce_weight: float = param(
        0.5, ge=0, le=1, search=(0.0, 0.9), source="ours; published scripts use 0.5 or 0 under the same name"
    )
    """Weight of cross-entropy at temperature 1."""
    temperature: float = param(
        1.0, gt=0, search=(0.5, 8.0, "log"), source="ours; Hinton et al. (2015) vary it between 1 and 20"
    )
    """Softmax temperature T of both distributions; the divergence is multiplied by T^2."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: KDParams) -> Tensor:
    """ce_weight CE(y) + (1 - ce_weight) T^2 KL(p_T||q_T), [N] (Hinton, Vinyals and Dean 2015, section 2)."""
    from plad_bench.learn.divergences import forward_kl, soften

    t = params.temperature
    divergence = t**2 * forward_kl(soften(student, t), soften(teacher, t))
    return with_cross_entropy(divergence, student, labels, params.ce_weight)


RECORDS = (
    Method(
        name="kd",
        summary="Forward KL to the teacher's softened distribution, mixed with cross-entropy.",
        paper="arXiv:1503.02531",
        title="Distilling the Knowledge in a Neural Network",
        equation="ce_weight CE(y) + (1 - ce_weight) T^2 KL(p_T || q_T)",
        access=Access.LOGITS,
        params=KDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=lambda params: params.data),)),
    ),
)
