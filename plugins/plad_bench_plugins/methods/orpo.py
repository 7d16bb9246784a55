"""ORPO: supervised fine-tuning on the chosen response with a penalty on the odds of the rejected one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


class ORPOParams(MethodParams):
    """Parameters of orpo."""

    weight: float = param(0.1, ge=0, search=(0.02, 2.0, "log"), source="arXiv:2403.07691, where it is lambda")
    """Weight of the odds-ratio term."""


def loss(pairs: PairBatch, params: ORPOParams) -> Tensor:
    """-l(y+) - weight log sigmoid(log odds(y+) - log odds(y-)), [B] (Hong, Lee and Thorne 2024).

    l is the log-probability per token and odds = exp(l) / (1 - exp(l)).
    """
    from torch.nn.functional import logsigmoid

    from plad_bench_plugins.methods._pairs import mean_logprobs

    chosen, rejected = mean_logprobs(pairs)
    return -chosen - params.weight * logsigmoid(log_odds(chosen) - log_odds(rejected))


def log_odds(logprob: Tensor) -> Tensor:
    """The log-odds l - log(1 - exp l) of log-probabilities l; finite even where l rounds to 0."""
    import torch

    below = logprob.clamp_max(-torch.finfo(logprob.dtype).tiny)
    return below - (-below.expm1()).log()


RECORDS = (
    Method(
        name="orpo",
        summary="Cross-entropy on the teacher's response plus a log-odds-ratio penalty on the student's own.",
        paper="arXiv:2403.07691",
        title="ORPO: Monolithic Preference Optimization without Reference Model",
        equation="-log q(y+)/|y+| - weight log sigmoid(log odds(y+) - log odds(y-)), odds of the mean log-probability",
        access=Access.TEXT,
        params=ORPOParams,
        objective=PairObjective(loss=loss),
        step_cost="a second sequence per prompt: about twice a step of seqkd",
    ),
)
