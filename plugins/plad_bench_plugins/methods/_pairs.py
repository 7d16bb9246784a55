"""Quantities of a batch of pairs that several pair losses share. All are [B], in nats."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


def mean_logprobs(pairs: PairBatch) -> tuple[Tensor, Tensor]:
    """Log-probability per token of chosen and of rejected."""
    return pairs.chosen_logprob / pairs.chosen_length, pairs.rejected_logprob / pairs.rejected_length


def anchor(pairs: PairBatch) -> Tensor:
    """-log q(y+) / length(y+): the supervised term of pair losses."""
    return -pairs.chosen_logprob / pairs.chosen_length


def log_ratio_margin(pairs: PairBatch) -> Tensor:
    """The difference log q/q0 (y+) - log q/q0 (y-), with q0 the reference model.

    Raises:
        ValueError: if the batch lacks the reference model's log-probabilities.
    """
    if pairs.reference_chosen is None or pairs.reference_rejected is None:
        msg = "needs reference_chosen and reference_rejected, the log-probabilities of the reference model"
        raise ValueError(msg)
    return (pairs.chosen_logprob - pairs.reference_chosen) - (pairs.rejected_logprob - pairs.reference_rejected)
