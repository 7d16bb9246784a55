"""ULD: compares sorted probabilities, so teacher and student may have different vocabularies."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, Term, TokenObjective, param
from plad_bench_plugins.methods._params import TokenParams

if TYPE_CHECKING:
    from torch import Tensor


class ULDParams(TokenParams):
    """Parameters of uld."""

    weight: float = param(1.5, ge=0, search=(0.1, 10.0, "log"), source="arXiv:2402.12030")
    """Weight of the distance between the sorted distributions."""


def loss(student: Tensor, teacher: Tensor, labels: Tensor, params: ULDParams) -> Tensor:
    """CE(y) + weight sum_i |sort(q)_i - sort(p)_i|, [N], from logits [N, V_student] and [N, V_teacher].

    The closed form of the Wasserstein distance with a uniform cost (Boizard et al. 2024). With different tokenizers,
    the student's t-th response token is compared with the teacher's t-th; without a counterpart the distance is 0.
    """
    from plad_bench.learn.divergences import cross_entropy, sorted_distance

    return cross_entropy(student, labels) + params.weight * sorted_distance(student, teacher)


RECORDS = (
    Method(
        name="uld",
        summary="Cross-entropy plus the distance between sorted distributions: works across tokenizers.",
        paper="arXiv:2402.12030",
        title="Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs",
        equation="CE(y) + weight sum_i |sort(q)_i - sort(p)_i|",
        access=Access.LOGITS,
        params=ULDParams,
        objective=TokenObjective(terms=(Term(loss=loss, text=lambda params: params.data),)),
        shared_vocabulary=False,
    ),
)
