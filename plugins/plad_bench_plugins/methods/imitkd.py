"""ImitKD: forward KL on prefixes that come ever more often from the student itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class ImitKDParams(DivergenceParams):
    """Parameters of imitkd."""

    decay: float = param(200.0, ge=1, source="arXiv:2009.07253")
    """The share of fixed text at the end of training is 1 / decay."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ImitKDParams) -> Tensor:
    """KL(p||q), [N] (Lin et al. 2020), with cross-entropy where asked for."""
    from plad_bench.learn.divergences import forward_kl

    return with_cross_entropy(forward_kl(student, teacher), student, labels, params.ce_weight)


def fixed_share(progress: float, params: ImitKDParams) -> float:
    """Probability decay^(-progress) that a step trains on fixed text; otherwise on fresh student samples."""
    return float(params.decay**-progress)


RECORDS = ()
"""None yet: a term's text cannot yet be a mixture whose shares change during training."""
