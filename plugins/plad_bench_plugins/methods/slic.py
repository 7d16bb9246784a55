"""SLiC-HF: a hinge on the summed log-probabilities of a pair, with an anchor on the chosen response."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


class SLiCParams(MethodParams):
    """Parameters of slic."""

    margin: float = param(1.0, ge=0, search=(0.1, 10.0, "log"), source="arXiv:2305.10425")
    """Minimum difference of the log-probabilities in nats."""
    sft_weight: float = param(
        1.0, ge=0, search=(0.1, 10.0, "log"), source="ours; the paper's weight is not known to us"
    )
    """Weight of the anchor -log q(y+)/length(y+)."""


def loss(pairs: PairBatch, params: SLiCParams) -> Tensor:
    """max(0, margin - log q(y+) + log q(y-)) + sft_weight anchor, [B] (Zhao et al. 2023)."""
    from plad_bench_plugins.methods._pairs import anchor

    hinge = (params.margin - pairs.chosen_logprob + pairs.rejected_logprob).relu()
    return hinge + params.sft_weight * anchor(pairs)


RECORDS = (
    Method(
        name="slic",
        summary="Sequence likelihood calibration: rank hinge on summed log-probabilities with an anchor.",
        paper="arXiv:2305.10425",
        title="SLiC-HF: Sequence Likelihood Calibration with Human Feedback",
        equation="max(0, margin - log q(y+) + log q(y-)) + sft_weight (-log q(y+) / |y+|)",
        access=Access.TEXT,
        params=SLiCParams,
        objective=PairObjective(loss=loss),
        step_cost="a second sequence per prompt: about twice a step of seqkd",
    ),
)
