"""TAID: a teacher that starts near the student and moves away as fast as the student follows."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from plad_bench import param
from plad_bench_plugins.methods._params import DivergenceParams, with_cross_entropy

if TYPE_CHECKING:
    from torch import Tensor


class TAIDParams(DivergenceParams):
    """Parameters of taid."""

    t_start: float = param(0.4, ge=0, le=1, source="arXiv:2501.16937")
    """The teacher's share of the target's logits at the first step."""
    t_end: float = param(1.0, ge=0, le=1, source="arXiv:2501.16937")
    """Its greatest share."""
    alpha: float = param(5e-4, ge=0, source="arXiv:2501.16937")
    """How far one step may move it beyond the linear schedule."""
    momentum: float = param(0.99, ge=0, lt=1, source="arXiv:2501.16937")
    """Of the running mean of the relative fall of the loss."""
    t: float | None = param(None, ge=0, le=1, source="ours")
    """Fixes the share instead; the schedule sets it in training."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: TAIDParams) -> Tensor:
    """KL(p_t||q), p_t = softmax((1 - t) sg(z_q) + t z_p), [N] (Shing et al. 2025)."""
    from plad_bench.learn.divergences import interpolated_kl

    t = params.t_start if params.t is None else params.t
    return with_cross_entropy(interpolated_kl(student, teacher, t), student, labels, params.ce_weight)


@dataclass(frozen=True)
class State:
    """The schedule after a step: t, the running mean of the loss's relative fall, and the last loss."""

    t: float
    fall: float = 0.0
    loss: float | None = None


def advance(state: State, loss: float, progress: float, params: TAIDParams) -> State:
    """The next t: min(t_end, max(linear schedule, t + alpha sigmoid(mean fall) (1 - t))); `loss` is the global one."""
    fall = state.fall
    if state.loss:
        fall = params.momentum * fall + (1 - params.momentum) * (state.loss - loss) / state.loss
    linear = params.t_start + progress * (params.t_end - params.t_start)
    bold = state.t + params.alpha * (1 - state.t) / (1 + math.exp(-fall))
    return State(t=min(params.t_end, max(linear, bold)), fall=fall, loss=loss)


RECORDS = ()
"""None yet: a parameter cannot yet follow a schedule with a state."""
