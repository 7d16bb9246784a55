"""Per-token losses between two next-token distributions, in nats, as formulas in log space.

Every function takes student and teacher logits [N, V] and returns [N], in float32 or, for float64 logits, float64.
p is the teacher, q the student, m a mixture of both. The student's logits carry the gradient.

How these are kept exact. For distributions KL(a||b) = sum_v (a log a/b - a + b), since both sum to one. Written so,
every summand is non-negative and its gradient vanishes wherever a_v = b_v, so that a loss is 0 with a gradient of
exactly 0 where student and teacher agree, in any precision. Tokens that neither can say (logits of -inf, as in padded
vocabularies) contribute nothing.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional


def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """logits / T, in at least float32, so that no precision is lost to the division."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1 else wide / temperature


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities in at least float32; an impossible token gets the lowest finite number."""
    wide = soften(logits)
    return wide.clamp_min(torch.finfo(wide.dtype).min).log_softmax(-1)


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """-log q(label)."""
    return functional.cross_entropy(soften(student), labels, reduction="none")


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a||b) of two distributions given as log-probabilities."""
    a = log_a.exp()
    return (a * (log_a - log_b) - a + log_b.exp()).sum(-1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p||q)."""
    return kl(log_softmax(teacher), log_softmax(student))
