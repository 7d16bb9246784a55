"""PLaD: ranks the teacher's response above the student's own, which is taken to be worse."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


CHOSEN = "unknown in the paper; chosen on the validation splits of demo and e2e (docs/protocol.md)"


class PLaDParams(MethodParams):
    """Parameters of plad. We do not know the paper's own values, so no default here is presented as the paper's."""

    loss: Literal["rank", "margin"] = param("rank", source="ours: the variant that needs no scorer")
    """rank: a constant margin. margin: proportional to the difference of the scorer's values."""
    beta: float = param(10.0, ge=0, search=(1.0, 100.0, "log"), source=CHOSEN)
    """The margin (rank), or the scale of the score difference (margin), in nats."""
    logprob: Literal["sum", "mean"] = param("sum", source="arXiv:2406.02886: the formula is written with sums")
    """Log-probability of a response: summed over its tokens, or per token."""
    sft_weight: float = param(30.0, ge=0, search=(1.0, 100.0, "log"), source=CHOSEN)
    """Weight of the anchor -log q(y+)/length(y+), which is per token even if `logprob` is summed over about 30."""
    scorer: str = param("rouge-l", min_length=1, source="unknown in the paper; ours")
    """The metric that scores responses if loss=margin."""


def loss(pairs: PairBatch, params: PLaDParams) -> Tensor:
    """max(0, margin - l(y+) + l(y-)) + sft_weight anchor, [B] (Zhang et al. 2024).

    l is the log-probability under the student, summed or per token. The margin is beta (rank) or
    beta (s(y+) - s(y-)) (margin); it may be negative if the scorer prefers the student's response.

    Raises:
        ValueError: if loss=margin and the pairs have no scores.
    """
    from plad_bench_plugins.methods._pairs import anchor, mean_logprobs

    chosen, rejected = pairs.chosen_logprob, pairs.rejected_logprob
    if params.logprob == "mean":
        chosen, rejected = mean_logprobs(pairs)
    margin: Tensor | float = params.beta
    if params.loss == "margin":
        if pairs.chosen_score is None or pairs.rejected_score is None:
            msg = "plad[loss=margin] needs chosen_score and rejected_score"
            raise ValueError(msg)
        margin = params.beta * (pairs.chosen_score - pairs.rejected_score)
    return (margin - chosen + rejected).relu() + params.sft_weight * anchor(pairs)


RECORDS = (
    Method(
        name="plad",
        summary="Rank the teacher's response above the student's own, by a hinge on their log-probabilities.",
        paper="arXiv:2406.02886",
        title="PLaD: Preference-based Large Language Model Distillation with Pseudo-Preference Pairs",
        equation="max(0, beta - log q(y+) + log q(y-)) + sft_weight (-log q(y+) / |y+|); "
        "margin: beta (s(y+) - s(y-)) in place of beta",
        access=Access.TEXT,
        params=PLaDParams,
        objective=PairObjective(loss=loss, scorer=lambda params: params.scorer if params.loss == "margin" else None),
        step_cost="a second sequence per prompt: about twice a step of seqkd",
    ),
)
