"""Per-token losses between two next-token distributions, in nats, as formulas in log space.

Every function takes student and teacher logits [N, V] and returns [N], in float32 or, for float64 logits, float64.
p is the teacher, q the student, m a mixture of both. The student's logits carry the gradient.

Precision: for distributions, KL(a||b) = sum_v (a log a/b - a + b), since both sum to one. Written this way,
every summand is non-negative and its gradient vanishes wherever a_v = b_v, so a loss is 0 with a gradient of
exactly 0 where student and teacher agree, in any precision. Tokens that are impossible for both (logits of -inf, as
in padded vocabularies) contribute nothing.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# -------------------------------------------------------------------------------------------------- building blocks


def soften(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The logits / T in at least float32, so that the division loses no precision."""
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return wide if temperature == 1 else wide / temperature


def finite(logits: Tensor) -> Tensor:
    """The logits in at least float32, with the lowest finite number for impossible tokens instead of -inf."""
    wide = soften(logits)
    return wide.clamp_min(torch.finfo(wide.dtype).min)


def log_softmax(logits: Tensor) -> Tensor:
    """Log-probabilities, [N, V], all finite."""
    return finite(logits).log_softmax(-1)


def log_mixture(log_a: Tensor, log_b: Tensor, weight: float) -> Tensor:
    """The logarithm of weight a + (1 - weight) b: a mixture of probabilities, exactly log a wherever a = b."""
    share = torch.tensor([weight, 1 - weight], dtype=log_a.dtype, device=log_a.device).log()
    return torch.where(log_a == log_b, log_a, torch.logaddexp(log_a + share[0], log_b + share[1]))


def kl(log_a: Tensor, log_b: Tensor) -> Tensor:
    """KL(a||b) of two distributions given as log-probabilities [N, V]."""
    found: Tensor = _KL.apply(log_a, log_b)
    return found


class _Elementwise(torch.autograd.Function):
    """A sum over the vocabulary whose derivatives are computed with its value, in few passes over [N, V].

    Left to autograd, the same formulas take about twice as many passes, which are most of a divergence's time.
    """

    @staticmethod
    def keep(ctx: Any, *derivatives: Tensor) -> None:
        """Keep the derivative by each argument, [N, V], where it is needed."""
        needed = zip(derivatives, ctx.needs_input_grad, strict=False)
        ctx.save_for_backward(*(values if wanted else None for values, wanted in needed))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        kept = (None if values is None else values * gradient[..., None] for values in ctx.saved_tensors)
        return *kept, *(None for _ in ctx.needs_input_grad[len(ctx.saved_tensors) :])


class _KL(_Elementwise):
    """sum_v a log a/b - a + b, by log a and log b: the derivatives are a log a/b and b - a."""

    @staticmethod
    def forward(ctx: Any, log_a: Tensor, log_b: Tensor) -> Tensor:
        a, ratio = log_a.exp(), log_a - log_b
        excess = log_b.exp() - a
        value = torch.addcmul(excess, a, ratio).sum(-1)
        _Elementwise.keep(ctx, a.mul_(ratio), excess)
        return value


class _JSD(_Elementwise):
    """share KL(a||m) + (1 - share) KL(b||m), by log a and log b: share a log a/m and (1 - share) b log b/m.

    The value has the terms -a + m and -b + m of both divergences, which cancel but for rounding of log m.
    """

    @staticmethod
    def forward(ctx: Any, log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
        log_m = log_mixture(log_a, log_b, share)
        a, b = log_a.exp(), log_b.exp()
        excess = log_m.exp().sub_(torch.lerp(b, a, share))
        of_a, of_b = a.mul_(log_a - log_m).mul_(share), b.mul_(log_b - log_m).mul_(1 - share)
        value = excess.add_(of_a).add_(of_b).sum(-1)
        _Elementwise.keep(ctx, of_a, of_b)
        return value


# --------------------------------------------------------------------------------------------------------- losses


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """-log q(label)."""
    return functional.cross_entropy(soften(student), labels, reduction="none")


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(p||q)."""
    return kl(log_softmax(teacher), log_softmax(student))


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """KL(q||p)."""
    return kl(log_softmax(student), log_softmax(teacher))


def skew_forward_kl(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """SKL_alpha = KL(p || alpha p + (1 - alpha) q)."""
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    return kl(log_p, log_mixture(log_p, log_q, alpha))


def skew_reverse_kl(student: Tensor, teacher: Tensor, alpha: float) -> Tensor:
    """SRKL_alpha = KL(q || (1 - alpha) p + alpha q)."""
    return skew_forward_kl(teacher, student, alpha)


def jsd_teacher_term(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The expectation under p in JSD_beta: beta KL(p||m); KL(p||q) at beta = 0."""
    return _jsd_term(log_softmax(teacher), log_softmax(student), beta)


def jsd_student_term(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """The expectation under q in JSD_beta: (1 - beta) KL(q||m); KL(q||p) at beta = 1."""
    return _jsd_term(log_softmax(student), log_softmax(teacher), 1 - beta)


def jsd(student: Tensor, teacher: Tensor, beta: float) -> Tensor:
    """JSD_beta = beta KL(p||m) + (1 - beta) KL(q||m), m = beta p + (1 - beta) q.

    At 0 and 1, where this is 0 for any p and q, it is defined as KL(p||q) and KL(q||p): the limits of
    JSD_beta / (beta (1 - beta)).
    """
    if beta in {0, 1}:
        return reverse_kl(student, teacher) if beta else forward_kl(student, teacher)
    found: Tensor = _JSD.apply(log_softmax(teacher), log_softmax(student), beta)
    return found


def _jsd_term(log_a: Tensor, log_b: Tensor, share: float) -> Tensor:
    """The expectation under a: share KL(a || share a + (1 - share) b); KL(a||b) if its share is 0."""
    return share * kl(log_a, log_mixture(log_a, log_b, share)) if share else kl(log_a, log_b)


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    """TV = 1/2 sum_v |p - q|."""
    return (log_softmax(teacher).exp() - log_softmax(student).exp()).abs().sum(-1) / 2


def adaptive_kl(student: Tensor, teacher: Tensor, mu: float) -> Tensor:
    """The mix w KL(p||q) + (1 - w) KL(q||p), w the share of sum |p - q| that lies in the teacher's head.

    The head: the teacher's most likely tokens while their mass is at most mu, and at least one. Tokens as likely as
    its last one belong to it too, so that the order of the vocabulary does not matter. w is constant for the gradient,
    and 1/2 where p = q.
    """
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    with torch.no_grad():
        p = log_p.exp()
        gap = (p - log_q.exp()).abs()
        ranked = p.sort(-1, descending=True).values
        inside = ranked.cumsum(-1) <= mu
        last = ranked.gather(-1, (inside.sum(-1, keepdim=True) - 1).clamp_min(0))
        head, total = gap.masked_fill(p < last, 0).sum(-1), gap.sum(-1)
        weight = torch.where(total > 0, head / total, 0.5)
    return weight * kl(log_p, log_q) + (1 - weight) * kl(log_q, log_p)


def alpha_beta(student: Tensor, teacher: Tensor, alpha: float, beta: float) -> Tensor:
    """-1/(ab) sum_v [p^a q^b - a/(a+b) p^(a+b) - b/(a+b) q^(a+b)], and its limits where a or b is 0; a, b >= 0.

    Evaluated as the equal sum_v [(p^s - q^s)/s - q^b (p^a - q^a)/a] / b with s = a + b, in which (p^a - q^a)/a ->
    log p/q at a = 0, and which cancels only if both exponents are small. Then it is computed in float64; if both are
    below 1e-6 it is its limit 1/2 (log p/q)^2.
    """
    log_q, log_p = log_softmax(student), log_softmax(teacher)
    if alpha > beta:  # D_(a,b)(p||q) = D_(b,a)(q||p): divide by the larger exponent
        log_p, log_q, alpha, beta = log_q, log_p, beta, alpha
    dtype = log_q.dtype
    if beta < 0.1:
        log_p, log_q = log_p.double(), log_q.double()
    ratio = log_p - log_q
    if beta < 1e-6:
        return (ratio**2 / 2).sum(-1).to(dtype)
    total = alpha + beta
    first = _power_difference(log_p, log_q, total)
    second = (beta * log_q).exp() * _power_difference(log_p, log_q, alpha)
    # Where p_v = q_v both value and gradient are 0; this keeps rounding from changing them.
    return ((first - second) / beta).masked_fill(ratio == 0, 0).sum(-1).to(dtype)


def _power_difference(log_a: Tensor, log_b: Tensor, power: float) -> Tensor:
    """(a^power - b^power) / power without cancellation or overflow; log a - log b at power 0."""
    ratio = log_a - log_b
    if power == 0:
        return ratio
    larger = (power * torch.maximum(log_a, log_b)).exp()
    return ratio.sign() * larger * -(-power * ratio.abs()).expm1() / power


def interpolated_kl(student: Tensor, teacher: Tensor, t: float) -> Tensor:
    """KL(p_t||q) with p_t = softmax((1 - t) sg(z_q) + t z_p), z the logits and sg stop-gradient."""
    z_q = finite(student)
    target = torch.lerp(z_q.detach(), finite(teacher), t)
    return kl(log_softmax(target), z_q.log_softmax(-1))


def sorted_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """sum_i |sort(q)_i - sort(p)_i| for vocabularies of different sizes: the smaller is padded with zeros."""
    q, p = log_softmax(student).exp(), log_softmax(teacher).exp()
    width = max(q.shape[-1], p.shape[-1])
    q, p = (functional.pad(x, (0, width - x.shape[-1])).sort(-1, descending=True).values for x in (q, p))
    return (q - p).abs().sum(-1)
