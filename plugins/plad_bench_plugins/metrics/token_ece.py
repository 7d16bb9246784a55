"""Token-level calibration: whether the student's most likely next token is right as often as its probability says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from plad_bench import Metric, Need, Params, Scored, Tools, param
from plad_bench_plugins.metrics._texts import on_references

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


class ECEParams(Params):
    """Parameters of token-ece."""

    bins: int = param(15, ge=1, source="Guo et al. 2017 (arXiv:1706.04599)")
    """Number of equal-width bins for confidences of 0 to 1."""


def score(examples: Sequence[Scored], params: ECEParams, tools: Tools) -> list[float]:
    """Each example's share of the cell's expected calibration error; NaN without references."""
    return shares(on_references(examples, tools.checkpoint(), _confidence), params.bins)


def shares(rows: Sequence[NDArray[np.float64]], bins: int) -> list[float]:
    """Values whose mean is ECE = sum over bins of n_b / N |accuracy_b - confidence_b|.

    With s_b the sign of accuracy_b - confidence_b over all N tokens of the E examples, ECE is the mean over tokens of
    s_b (correct - confidence). An example's value is E / N times the sum over its tokens; it can be negative.

    Args:
        rows: (confidence, correct) of every token of each example, [T, 2].
        bins: their number.
    """
    kept = [row for row in rows if len(row)]
    if not kept:
        return [float("nan")] * len(rows)
    tokens = np.concatenate(kept)
    gaps = np.zeros(bins)
    np.add.at(gaps, _bin(tokens, bins), tokens[:, 1] - tokens[:, 0])
    scale = len(kept) / len(tokens)
    return [
        scale * float((np.sign(gaps)[_bin(row, bins)] * (row[:, 1] - row[:, 0])).sum()) if len(row) else float("nan")
        for row in rows
    ]


def _bin(row: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    return np.minimum((row[:, 0] * bins).astype(np.int64), bins - 1)


def _confidence(logits: Tensor, labels: Tensor) -> Tensor:
    import torch

    confidence, token = logits.softmax(-1).max(-1)
    return torch.stack([confidence, (token == labels).to(confidence.dtype)], dim=1)


RECORDS = (
    Metric(
        name="token-ece",
        summary="Expected calibration error of the next token on the references.",
        better="lower",
        unit="%",
        cost="one forward pass over the references",
        formula="ECE = sum over bins b of n_b/N |accuracy_b - confidence_b| (arXiv:1706.04599) is not a mean over "
        "examples. An example's value is E/N times the sum over its tokens of s_b (correct - confidence), with s_b the "
        "sign of accuracy_b - confidence_b in the cell: the mean over the E examples is exactly ECE. Intervals treat "
        "the signs as fixed",
        needs=frozenset({Need.CHECKPOINT, Need.REFERENCES}),
        params=ECEParams,
        score=score,
    ),
)
