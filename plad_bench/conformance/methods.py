"""Claims about methods: properties of all token losses and pair losses."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from typing import Any

from plad_bench.conformance.claims import claim, default_params, see
from plad_bench.contract import objectives
from plad_bench.contract.params import search_of, source_of
from plad_bench.contract.registry import configure


def batch(dtype: Any = None, scale: float = 2.0, vocabulary: int = 7) -> tuple[Any, Any, Any]:
    """Student and teacher logits [3, 5, V] and labels [3, 5] of ragged responses, one row fully masked."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, vocabulary)
    student, teacher = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "qp")
    labels = torch.randint(0, vocabulary, shape[:2], generator=generator)
    labels[0, :2] = labels[1, 3:] = labels[2, :] = -100
    return student.to(dtype or torch.float64), teacher.to(dtype or torch.float64), labels


def graded(loss: Callable[..., Any], student: Any, *rest: Any) -> tuple[Any, Any]:
    """The value of a loss and its gradient with respect to its first argument."""
    import torch

    student = student.clone().requires_grad_()
    value = loss(student, *rest)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def _of_tokens(method: Any) -> bool:
    return isinstance(method.objective, objectives.TokenObjective)


def _of_pairs(method: Any) -> bool:
    return isinstance(method.objective, objectives.PairObjective)


def _token_by_token(method: Any) -> bool:
    return _of_tokens(method) and not any(term.advantage for term in method.objective.terms)


def _token_loss(method: Any, student: Any, teacher: Any, labels: Any) -> Any:
    from plad_bench.testing import token_loss

    default_params(method)
    return token_loss(method, student, teacher, labels)


@claim(
    "it names its paper, title and equation, and the source of each default",
    "method",
    remedy='Fill in `paper` ("none" where there is none), `title` and `equation`; declare each parameter with '
    'param(DEFAULT, source="...").',
)
def _sourced(method: Any) -> None:
    unnamed = [name for name in ("paper", "title", "equation") if not getattr(method, name)]
    see(not unnamed, f"{', '.join(unnamed)}: empty")
    unsourced = [name for name in method.params.model_fields if not source_of(method.params, name)]
    see(not unsourced, f"no source for the default of {', '.join(unsourced)}")
    see("lr" in method.params.model_fields, "no parameter lr", "Derive its parameters from plad_bench.MethodParams.")


@claim(
    "the range to search of a parameter holds its default, and values that may be given",
    "method",
    remedy='Declare param(DEFAULT, search=(LOW, HIGH)), or (LOW, HIGH, "log") with LOW > 0.',
)
def _searched(method: Any) -> None:
    params = default_params(method)
    for name in method.params.model_fields:
        if (declared := search_of(method.params, name)) is None:
            continue
        low, high, *scale = declared
        see(scale in ([], ["log"]) and low < high and (low > 0 or not scale), f"search of {name} is {declared}")
        usual = getattr(params, name)
        see(name == "lr" or low <= usual <= high, f"the default {name}={usual} is not from {low} to {high}")
        for end in (low, high):
            configure(method, {name: end})


_EXTREME = 200.0
"""With logits of this size, all tokens but one have a probability of 0 in float32."""
_FINITE_GRADIENT = (
    "The gradient of sqrt() at 0, of log() at 0 and of norm() at 0 is not finite, also below torch.where: clamp_min "
    "before them, or work in log space."
)
_LOG_SPACE = (
    "Work in log space: log_softmax(-1) instead of softmax(-1).log(), logsumexp instead of exp().sum().log(); begin "
    "with .float(), since bfloat16 has 8 bits of precision; clamp_min what you divide by or take the logarithm of."
)


@claim(
    "the loss and its gradient are finite, in the dtype of the logits", "method", remedy=_LOG_SPACE, applies=_of_tokens
)
def _finite(method: Any) -> None:
    import torch

    for dtype, scale in itertools.product((torch.float64, torch.float32, torch.bfloat16), (2.0, _EXTREME)):
        student, teacher, labels = batch(dtype, scale)
        value, gradient = graded(lambda z, t=teacher, y=labels: _token_loss(method, z, t, y), student)
        see(value.dtype == gradient.dtype == dtype, f"{dtype} logits give a loss of {value.dtype}")
        see(value.isfinite(), f"for {dtype} logits of the size {scale:g} the loss is {value.item()}")
        see(
            gradient.isfinite().all(),
            f"for {dtype} logits of the size {scale:g} the gradient is not finite",
            _FINITE_GRADIENT,
        )


@claim(
    "there is a gradient, from the tokens of responses alone",
    "method",
    remedy="Return the loss of each token that the function gets, [N], computed from the student's logits: look for "
    "detach(), argmax and factors of 0.",
    applies=_of_tokens,
)
def _masked(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    masked = labels == -100
    value, gradient = graded(lambda z: _token_loss(method, z, teacher, labels), student)
    see(torch.equal(gradient[masked], torch.zeros_like(gradient[masked])), "masked positions have a gradient")
    see(gradient[~masked].abs().sum() > 0, "no position has a gradient")
    student[masked], teacher[masked] = 1e4, -1e4
    see(torch.equal(_token_loss(method, student, teacher, labels), value), "masked logits change the loss")


@claim(
    "a batch without response tokens gives a loss of 0 and no gradient",
    "method",
    remedy="Return an empty tensor where N is 0: reduce over the vocabulary only, and leave the mean over tokens to "
    "plad-bench.",
    applies=_of_tokens,
)
def _empty(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    nothing = torch.full_like(labels, -100)
    value, gradient = graded(lambda z: _token_loss(method, z, teacher, nothing), student)
    see(value.item() == 0, f"the loss is {value.item()}")
    see(torch.equal(gradient, torch.zeros_like(gradient)), "it has a gradient")


@claim(
    "the loss of a token depends on that token alone",
    "method",
    remedy="Return the loss of each token, [N]: reduce over the vocabulary (dim=-1) only, and leave the mean over "
    "tokens to plad-bench.",
    applies=_token_by_token,
)
def _rows(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    valid = labels != -100
    flat = [tensor[valid][None] for tensor in (student, teacher, labels)]
    value = _token_loss(method, student, teacher, labels)
    torch.testing.assert_close(_token_loss(method, *flat), value)
    alone = [_token_loss(method, *(tensor[:, i : i + 1] for tensor in flat)) for i in range(flat[2].shape[1])]
    torch.testing.assert_close(torch.stack(alone).mean(), value)


@claim(
    "the order of the vocabulary changes nothing",
    "method",
    remedy="Use token ids as indices only, never as numbers, and no position in the vocabulary.",
    applies=_of_tokens,
)
def _permuted(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    relabelled = torch.where(labels == -100, labels, order.argsort()[labels.clamp_min(0)])
    permuted = _token_loss(method, student[..., order], teacher[..., order], relabelled)
    torch.testing.assert_close(permuted, _token_loss(method, student, teacher, labels))


@claim(
    "adding a constant to all logits changes nothing",
    "method",
    remedy="Begin with log_softmax(-1). If the equation is one of raw logits, this is as it should be.",
    applies=_of_tokens,
    advice=True,
)
def _shifted(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    shifted = _token_loss(method, student + 5, teacher - 3, labels)
    torch.testing.assert_close(shifted, _token_loss(method, student, teacher, labels))


@claim(
    "tokens that are impossible for student and teacher (-inf) change nothing",
    "method",
    remedy="0 * -inf is NaN: use the functions of plad_bench.learn.divergences, or set log-probabilities of -inf to 0 "
    "before you multiply.",
    applies=_of_tokens,
)
def _padded(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    pad = torch.full((3, 5, 2), -math.inf, dtype=torch.float64)
    wide = torch.cat([teacher, pad], -1)
    value, gradient = graded(lambda z: _token_loss(method, z, wide, labels), torch.cat([student, pad], -1))
    see(value.isfinite(), f"the loss is {value.item()}")
    torch.testing.assert_close(value, _token_loss(method, student, teacher, labels).detach())
    see(gradient.isfinite().all(), "the gradient is not finite")


@claim(
    "the teacher gets no gradient",
    "method",
    remedy="Treat the teacher's logits as constants.",
    applies=_of_tokens,
)
def _constant(method: Any) -> None:
    student, teacher, labels = batch()
    teacher.requires_grad_()
    _token_loss(method, student.requires_grad_(), teacher, labels).backward()
    see(teacher.grad is None, "it gets one")


def pairs(dtype: Any = None) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Four pairs: clearly right, clearly wrong, close, and one whose rejected response scores higher.

    Rows of (log q(y+), log q(y-), lengths, reference log-probabilities, scores), and the same as tensors by column.
    """
    import torch

    rows = [
        (-4.0, -30.0, 8, 10, -6.0, -25.0, 0.9, 0.1),
        (-30.0, -5.0, 10, 9, -28.0, -9.0, 0.7, 0.2),
        (-10.0, -10.25, 6, 7, -10.0, -10.0, 0.5, 0.4),
        (-12.0, -9.0, 12, 5, -11.0, -9.5, 0.2, 0.6),
    ]
    columns = [torch.tensor(column, dtype=dtype or torch.float64) for column in zip(*rows, strict=True)]
    columns[2:4] = [column.long() for column in columns[2:4]]
    return rows, columns


def _pair_loss(method: Any, *columns: Any) -> Any:
    from plad_bench.testing import pair_loss

    default_params(method)
    return pair_loss(method, *columns)


@claim(
    "the loss and its gradient are finite however certain the student is, in the dtype of its log-probabilities",
    "method",
    remedy="Use logsigmoid(x) instead of sigmoid(x).log(), softplus(x) instead of (1 + x.exp()).log(); clamp what goes "
    "into exp().",
    applies=_of_pairs,
)
def _finite_pairs(method: Any) -> None:
    import torch

    length = torch.tensor([3, 4])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        zero, far = torch.zeros(2, dtype=dtype), torch.full((2,), -1e4, dtype=dtype)
        rest = (length, length, far, far, zero, zero)
        for chosen, rejected in ((zero, zero), (zero, far), (far, zero)):
            value, gradient = graded(lambda c, r, rest=rest: _pair_loss(method, c, r, *rest), chosen, rejected)
            see(value.dtype == dtype, f"{dtype} log-probabilities give a loss of {value.dtype}")
            see(value.isfinite(), f"in {dtype} the loss is {value.item()}")
            see(gradient.isfinite().all(), f"in {dtype} the gradient is not finite")


@claim(
    "the loss of a pair depends on that pair alone",
    "method",
    remedy="Return the loss of each pair, [B], and leave the mean over pairs to plad-bench.",
    applies=_of_pairs,
)
def _independent(method: Any) -> None:
    import torch

    _, columns = pairs()
    alone = [_pair_loss(method, *(column[i : i + 1] for column in columns)) for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), _pair_loss(method, *columns))


@claim(
    "it raises the probability of the chosen response and lowers that of the rejected one",
    "method",
    remedy="Check the sign of each term. If the equation says so, this is as it should be.",
    applies=_of_pairs,
    advice=True,
)
def _pushes(method: Any) -> None:
    _, columns = pairs()
    chosen, rejected = columns[0].requires_grad_(), columns[1].requires_grad_()
    _pair_loss(method, *columns).backward()
    see(chosen.grad is not None and (chosen.grad <= 0).all(), "it lowers a chosen response")
    see(rejected.grad is not None and (rejected.grad >= 0).all(), "it does not lower a rejected response")
    see(chosen.grad[1] < 0 < rejected.grad[1], "the pair that is ordered wrongly has no gradient")
