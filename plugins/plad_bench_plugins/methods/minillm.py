"""MiniLLM: reverse KL of whole responses by policy gradient, its first step summed over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import MethodParams, param

if TYPE_CHECKING:
    from torch import Tensor


class MiniLLMParams(MethodParams):
    """Parameters of minillm."""

    teacher_mix: float = param(0.2, ge=0, lt=1, source="arXiv:2306.08543, where it is alpha")
    """The teacher's share of the distribution that responses are sampled from."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, _params: MiniLLMParams) -> Tensor:
    """The single-step part, KL(q||p), [N] (Gu et al. 2024, section 2.2)."""
    from plad_bench.learn.divergences import reverse_kl

    return reverse_kl(student, teacher)


def advantage(student: Tensor, teacher: Tensor, behaviour: Tensor, mask: Tensor) -> Tensor:
    """What multiplies -log q(y_t) in the long-term part: w_t R_(t+1), [B, T], a constant for the gradient.

    r = log p - log q of the sampled tokens, R_(t+1) the mean of r over the response after t, w = q / behaviour the
    importance weight of a token drawn from the mixture.

    Args:
        student: log q of the sampled tokens, [B, T].
        teacher: log p of them, [B, T].
        behaviour: their log-probability under the distribution they were drawn from, [B, T].
        mask: 1 on response tokens, [B, T].

    """
    reward = ((teacher - student) * mask).detach()
    after = reward.flip(-1).cumsum(-1).flip(-1) - reward
    remaining = mask.flip(-1).cumsum(-1).flip(-1) - mask
    weight = (student - behaviour).detach().exp()
    return weight * after / remaining.clamp_min(1) * mask


RECORDS = ()
"""None yet: sequences of sampled tokens with their behaviour's log-probabilities do not reach a loss yet."""
