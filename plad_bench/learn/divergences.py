"""Per-token losses between two next-token distributions, in nats, as plain formulas on logits.

Every function takes student and teacher logits of shape [N, V] and returns [N]. KL(a||b) is the true divergence,
with the entropy of a, so that a loss of zero means equal distributions. The student's logits carry the gradient; the
teacher's are constants.
"""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """-log q(label), [N]."""
    return functional.cross_entropy(student, labels, reduction="none")


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p||q) = sum_v p (log p - log q), [N]."""
    log_q, log_p = student.log_softmax(-1), teacher.log_softmax(-1)
    return functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
