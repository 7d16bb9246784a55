"""The method confident-kd: forward KL on the references, weighted by the teacher's confidence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, Term, Text, TokenObjective, hookimpl, param

if TYPE_CHECKING:
    from torch import Tensor

PLAD_BENCH_API = 2


class ConfidentKDParams(MethodParams):
    """Parameters of confident-kd."""

    power: float = param(1.0, ge=0, source="ours")
    """Exponent of the teacher's largest probability; 0 weighs all tokens alike."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ConfidentKDParams) -> Tensor:
    """max(p)^power KL(p || q) of each token, [N], in nats, from logits [N, V] of student (q) and teacher (p)."""
    from plad_bench.learn.divergences import forward_kl

    confidence = teacher.float().softmax(-1).amax(-1)
    return confidence**params.power * forward_kl(student, teacher)


METHOD = Method(
    name="confident-kd",
    summary="Forward KL on the references, weighted by the teacher's confidence.",
    version=1,
    params=ConfidentKDParams,
    paper="none",
    title="An example of a plugin",
    equation="max(p)^power KL(p || q)",
    access=Access.LOGITS,
    objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
)


@hookimpl
def plad_bench_methods() -> Iterator[Method]:
    """Register confident-kd."""
    yield METHOD
