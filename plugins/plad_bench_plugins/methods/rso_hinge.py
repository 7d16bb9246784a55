"""RSO's hinge: as DPO, without gradient for a pair that is ranked correctly by a margin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


class RSOHingeParams(MethodParams):
    """Parameters of rso-hinge."""

    gamma: float = param(0.05, ge=0, search=(0.005, 0.5, "log"), source="arXiv:2309.06657")
    """Scale of the log-ratio; 1/gamma is the margin in nats."""


def loss(pairs: PairBatch, params: RSOHingeParams) -> Tensor:
    """max(0, 1 - gamma (log q/q0 (y+) - log q/q0 (y-))), [B] (Liu et al. 2023); summed log-probabilities."""
    from plad_bench_plugins.methods._pairs import log_ratio_margin

    return (1 - params.gamma * log_ratio_margin(pairs)).relu()


RECORDS = (
    Method(
        name="rso-hinge",
        summary="Hinge on the normalised log-ratio of teacher over student; without RSO's rejection sampling.",
        paper="arXiv:2309.06657",
        title="Statistical Rejection Sampling Improves Preference Optimization",
        equation="max(0, 1 - gamma (log q/q0 (y+) - log q/q0 (y-)))",
        access=Access.TEXT,
        params=RSOHingeParams,
        objective=PairObjective(loss=loss, reference=True),
        step_cost="a second sequence per prompt; log-probabilities of the reference model once per pair set",
    ),
)
