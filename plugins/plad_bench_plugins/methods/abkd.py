"""ABKD: the alpha-beta divergence, between forward KL at (1, 0) and reverse KL at (0, 1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, TokenObjective, param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class ABKDParams(DivergenceParams):
    """Parameters of abkd."""

    alpha: float = param(0.5, ge=0, search=(0.1, 1.0), source="ours; arXiv:2505.04560 tunes it for each task")
    """Exponent of p: emphasis on tokens that the teacher finds likely."""
    beta: float = param(0.5, ge=0, search=(0.1, 1.0), source="ours; arXiv:2505.04560 tunes it for each task")
    """Exponent of q: emphasis on tokens that the student finds likely."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ABKDParams) -> Tensor:
    """D_(a,b)(p||q) = -1/(ab) sum [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)], [N] (Wang et al. 2025)."""
    from plad_bench.learn.divergences import alpha_beta

    divergence = alpha_beta(student, teacher, params.alpha, params.beta)
    return with_cross_entropy(divergence, student, labels, params.ce_weight)


RECORDS = (
    Method(
        name="abkd",
        summary="Alpha-beta divergence to the teacher: one family from forward to reverse KL.",
        paper="arXiv:2505.04560",
        title="ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "alpha-beta-Divergence",
        equation="-1/(alpha beta) sum [p^alpha q^beta - alpha/(alpha+beta) p^(alpha+beta) "
        "- beta/(alpha+beta) q^(alpha+beta)]",
        access=Access.LOGITS,
        params=ABKDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=lambda params: params.data),)),
    ),
)
