"""AKL: forward and reverse KL, weighted by where student and teacher differ most."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, TokenObjective, param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class AKLParams(DivergenceParams):
    """Parameters of akl."""

    mu: float = param(0.5, ge=0, le=1, search=(0.1, 0.9), source="arXiv:2404.02657")
    """Mass of the teacher's head: the most likely tokens with at most this mass together, and at least one token."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: AKLParams) -> Tensor:
    """w_head KL(p||q) + w_tail KL(q||p), [N] (Wu et al. 2024), q constant in the weights."""
    from plad_bench.learn.divergences import adaptive_kl

    return with_cross_entropy(adaptive_kl(student, teacher, params.mu), student, labels, params.ce_weight)


RECORDS = (
    Method(
        name="akl",
        summary="Forward KL for the teacher's head and reverse KL for its tail, weighted by the gap in each.",
        paper="arXiv:2404.02657",
        title="Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models",
        equation="w_h KL(p || q) + w_t KL(q || p), w the shares of sum |p - q| in the teacher's head and tail",
        access=Access.LOGITS,
        params=AKLParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=lambda params: params.data),)),
    ),
)
