"""SimPO: preference by log-probability per token, with a target margin and no reference model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


class SimPOParams(MethodParams):
    """Parameters of simpo."""

    beta: float = param(2.0, ge=0, search=(1.0, 10.0, "log"), source="arXiv:2405.14734, which tunes it from 2 to 10")
    """Scale of the log-probability per token."""
    gamma: float = param(
        1.0, ge=0, search=(0.2, 5.0, "log"), source="arXiv:2405.14734, which tunes gamma/beta from 0.1 to 0.8"
    )
    """The target margin itself, not its ratio to beta."""


def loss(pairs: PairBatch, params: SimPOParams) -> Tensor:
    """-log sigmoid(beta (log q(y+)/|y+| - log q(y-)/|y-|) - gamma), [B] (Meng, Xia and Chen 2024)."""
    from torch.nn.functional import logsigmoid

    from plad_bench_plugins.methods._pairs import mean_logprobs

    chosen, rejected = mean_logprobs(pairs)
    return -logsigmoid(params.beta * (chosen - rejected) - params.gamma)


RECORDS = (
    Method(
        name="simpo",
        summary="Reference-free preference loss on length-normalised log-probabilities with a target margin.",
        paper="arXiv:2405.14734",
        title="SimPO: Simple Preference Optimization with a Reference-Free Reward",
        equation="-log sigmoid(beta (log q(y+)/|y+| - log q(y-)/|y-|) - gamma)",
        access=Access.TEXT,
        params=SimPOParams,
        objective=PairObjective(loss=loss),
        step_cost="a second sequence per prompt: about twice a step of seqkd",
    ),
)
