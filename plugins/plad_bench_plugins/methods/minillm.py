"""MiniLLM: reverse KL of whole responses by policy gradient, with the first step summed over the vocabulary."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Sampling, Term, Text, TokenObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import Trace


class MiniLLMParams(MethodParams):
    """Parameters of minillm."""

    teacher_mix: float = param(0.2, ge=0, lt=1, search=(0.05, 0.5), source="arXiv:2306.08543, where it is alpha")
    """The teacher's share of the distribution that responses are sampled from."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, _params: MiniLLMParams) -> Tensor:
    """The single-step part, KL(q||p), [N] (Gu et al. 2024, section 2.2)."""
    from plad_bench.learn.divergences import reverse_kl

    return reverse_kl(student, teacher)


def advantage(trace: Trace, _params: MiniLLMParams) -> Tensor:
    """Factor of -log q(y_t) in the long-term part: w_t R_(t+1), [B, T].

    r = log p - log q of the sampled tokens, R_(t+1) the mean of r over the response after t, w = q / behaviour the
    importance weight of a token drawn from the mixture.
    """
    reward = trace.teacher - trace.student
    after = reward.flip(-1).cumsum(-1).flip(-1) - reward
    remaining = trace.mask.flip(-1).cumsum(-1).flip(-1) - trace.mask
    weight = (trace.student - trace.behaviour).exp()
    return weight * after / remaining.clamp_min(1) * trace.mask


RECORDS = (
    Method(
        name="minillm",
        summary="Reverse KL of whole responses: exact for each token, policy gradient for the tokens after it.",
        paper="arXiv:2306.08543",
        title="MiniLLM: Knowledge Distillation of Large Language Models",
        equation="KL(q || p) - sg(w_t mean_(s>t) log p(y_s)/q(y_s)) log q(y_t), y ~ a p + (1 - a) q, "
        "w_t = q / (a p + (1 - a) q) at y_t",
        access=Access.LOGITS,
        params=MiniLLMParams,
        objective=TokenObjective(
            terms=(
                Term(
                    loss=loss,
                    advantage=advantage,
                    text=Text.STUDENT,
                    sampling=lambda params: Sampling(teacher_mix=params.teacher_mix),
                ),
            )
        ),
        step_cost="samples a response for every prompt with both models at every token",
    ),
)
