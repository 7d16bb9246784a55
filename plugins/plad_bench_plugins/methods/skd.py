"""SKD: forward KL on text that the student proposes and the teacher corrects token by token."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import MethodParams, param

if TYPE_CHECKING:
    from torch import Tensor


class SKDParams(MethodParams):
    """Parameters of skd."""

    k: int = param(25, ge=1, source="arXiv:2410.11325")
    """A proposed token is kept if it is among the teacher's k likeliest; else the teacher samples in its place."""
    draft: int = param(5, ge=1, source="arXiv:2410.11325")
    """How many tokens the student proposes before the teacher looks."""


def loss(student: Tensor, teacher: Tensor, _labels: Tensor, _params: SKDParams) -> Tensor:
    """KL(p||q), [N] (Xu et al. 2025)."""
    from plad_bench.learn.divergences import forward_kl

    return forward_kl(student, teacher)


RECORDS = ()
"""None yet: text cannot yet be sampled by student and teacher in turns."""
