"""SKD: forward KL on text that the student proposes and the teacher corrects token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Sampling, Term, Text, TokenObjective, param

if TYPE_CHECKING:
    from torch import Tensor


class SKDParams(MethodParams):
    """Parameters of skd."""

    k: int = param(25, ge=1, search=(5, 100, "log"), source="arXiv:2410.11325")
    """A proposed token is kept if it is among the teacher's k most likely; otherwise the teacher samples a new one."""
    draft: int = param(5, ge=1, source="arXiv:2410.11325")
    """Tokens that the student proposes before the teacher verifies them. This changes the cost, not the text."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, _params: SKDParams) -> Tensor:
    """KL(p||q), [N] (Xu et al. 2025)."""
    from plad_bench.learn.divergences import forward_kl

    return forward_kl(student, teacher)


RECORDS = (
    Method(
        name="skd",
        summary="Forward KL on text that the student proposes; the teacher replaces tokens outside its top k.",
        paper="arXiv:2410.11325",
        title="Speculative Knowledge Distillation: Bridging the Teacher-Student Gap Through Interleaved Sampling",
        equation="KL(p || q) on interleaved text: y_t ~ q if in the top k of p, else y_t ~ p",
        access=Access.LOGITS,
        params=SKDParams,
        objective=TokenObjective(
            terms=(
                Term(
                    loss=loss,
                    text=Text.STUDENT,
                    sampling=lambda params: Sampling(verify_top_k=params.k, draft=params.draft),
                ),
            )
        ),
        step_cost="samples a response for every prompt with both models in turns",
    ),
)
