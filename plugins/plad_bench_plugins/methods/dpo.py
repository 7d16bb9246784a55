"""DPO: the log-ratio of student and reference model is a reward, which the chosen response gets more of."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench import Access, Method, MethodParams, PairObjective, param

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench import PairBatch


class DPOParams(MethodParams):
    """Parameters of dpo."""

    beta: float = param(0.1, ge=0, search=(0.01, 1.0, "log"), source="arXiv:2305.18290")
    """Scale of the implicit reward: a larger beta keeps the student closer to the reference model."""


def loss(pairs: PairBatch, params: DPOParams) -> Tensor:
    """-log sigmoid(beta (log q/q0 (y+) - log q/q0 (y-))), [B] (Rafailov et al. 2023, equation 7); summed log-probs."""
    from torch.nn.functional import logsigmoid

    from plad_bench_plugins.methods._pairs import log_ratio_margin

    return -logsigmoid(params.beta * log_ratio_margin(pairs))


RECORDS = (
    Method(
        name="dpo",
        summary="Direct preference optimisation of teacher over student, relative to the reference model.",
        paper="arXiv:2305.18290",
        title="Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
        equation="-log sigmoid(beta (log q/q0 (y+) - log q/q0 (y-)))",
        access=Access.TEXT,
        params=DPOParams,
        objective=PairObjective(loss=loss, reference=True),
        step_cost="a second sequence per prompt; log-probabilities of the reference model once per pair set",
    ),
)
