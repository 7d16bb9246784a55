"""GKD: generalised Jensen-Shannon divergence, on on-policy text in some of the steps."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Sampling, Term, Text, TokenObjective, param
from plad_bench_plugins.methods._params import TokenParams

if TYPE_CHECKING:
    from collections.abc import Mapping

    from torch import Tensor


class GKDParams(TokenParams):
    """Parameters of gkd."""

    beta: float = param(0.5, ge=0, le=1, search=(0.05, 0.95), source="arXiv:2306.13649")
    """The teacher's share of the mixture; 0 is defined as KL(p||q), 1 as KL(q||p)."""
    on_policy: float = param(0.5, ge=0, le=1, search=(0.1, 0.9), source="arXiv:2306.13649, where it is lambda")
    """Probability that a step trains on on-policy text."""
    temperature: float = param(1.0, gt=0, source="ours")
    """Softmax temperature of both distributions in the loss; no factor T^2."""
    sampling_temperature: float = param(0.9, gt=0, source="the default of a published implementation")
    """Temperature of the on-policy text. It has no effect on the loss."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, params: GKDParams) -> Tensor:
    """JSD_beta of the softened distributions, [N] (Agarwal et al. 2024)."""
    from plad_bench.learn.divergences import jsd, soften

    return jsd(soften(student, params.temperature), soften(teacher, params.temperature), params.beta)


def text(params: GKDParams) -> Mapping[Text, float]:
    """On-policy text with probability on_policy; a source of probability 0 is left out."""
    shares = {params.data: 1 - params.on_policy, Text.STUDENT: params.on_policy}
    return {source: share for source, share in shares.items() if share}


RECORDS = (
    Method(
        name="gkd",
        summary="Generalised Jensen-Shannon divergence, by default half on fixed and half on on-policy text.",
        paper="arXiv:2306.13649",
        title="On-Policy Distillation of Language Models: Learning from Self-Generated Mistakes",
        equation="beta KL(p || m) + (1 - beta) KL(q || m), m = beta p + (1 - beta) q, "
        "on student text with probability on_policy",
        access=Access.LOGITS,
        params=GKDParams,
        objective=TokenObjective(
            terms=(
                Term(loss=loss, text=text, sampling=lambda params: Sampling(temperature=params.sampling_temperature)),
            )
        ),
        step_cost="samples a response of the student for every prompt in a share on_policy of the steps",
    ),
)
