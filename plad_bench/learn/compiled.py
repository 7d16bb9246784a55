"""Compiles the parts of a long training on a GPU that every step repeats: its models' layers and its loss.

A divergence and its gradient take some fifteen operations, each of which reads and writes all logits, and a layer has
as many operations between its matrix products, each of which reads and writes all hidden states. The compiler makes a
few kernels of them. Compiling takes some ten seconds, so short trainings do without.

A compiled part is compared with the original on a few rows of the first batch, in values and gradients. If they differ
by more than rounding, or the machine cannot compile, a warning says so and the original is used. Layers are compared
one by one on the same hidden states, because rounding adds up over layers.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plad_bench.learn import models

ROWS = 64
"""Rows of logits that a compiled loss is compared on."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest norm of a difference, relative to the norm of the values or gradients, by precision."""
WITHIN = 4
"""A layer may differ by so many times that: it rounds often, and its gradients are differences of rounded numbers."""

Form = Callable[[], Sequence[Tensor]]
"""One of two ways to compute the same tensors."""

_log = logging.getLogger(__name__)


class CompiledLoss:
    """A loss of (logits [n, V], other tensors with n rows or None), [n], that is compiled at its first call."""

    def __init__(self, loss: Callable[..., Tensor]) -> None:
        self.loss = loss
        self.form: Callable[..., Tensor] | None = None
        """What is called: the compiled loss or, if that differs, the loss itself."""

    def __call__(self, logits: Tensor, *others: Tensor | None) -> Tensor:
        """The loss, [n]."""
        if self.form is None:
            # The compiler looks at `grad` of the tensors that it is given.
            warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
            compiled = torch.compile(self.loss)
            own, form = (_differentiated(f, logits, others) for f in (self.loss, compiled))
            self.form = compiled if _equal("a loss", own, form) else self.loss
        return self.form(*_of_any_length(logits, *others))


def _differentiated(loss: Callable[..., Tensor], logits: Tensor, others: Sequence[Tensor | None]) -> Form:
    """Values of the first rows, [n], and the gradient of their sum, [n, V]."""

    def form() -> Sequence[Tensor]:
        with torch.enable_grad():
            own = logits[:ROWS].detach().clone().requires_grad_()
            values = loss(*_of_any_length(own, *(None if other is None else other[:ROWS] for other in others)))
            return values.detach(), *torch.autograd.grad(values.sum(), own)

    return form


def _of_any_length(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """Tensors whose number of rows the compiler takes for variable."""
    for values in tensors:
        if values is not None:
            torch._dynamo.maybe_mark_dynamic(values, 0)
    return tensors


class CompiledLayers:
    """The repeated layers of a transformers model, compiled within `on`."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.forms: list[tuple[nn.Module, Callable[..., Any]]] | None = None
        """Every layer and its compiled forward; none if one differs."""

    @contextmanager
    def on(self, few: Callable[[], object]) -> Iterator[None]:
        """Compiled layers within this context; at first they are compared on what they read while `few` runs."""
        if self.forms is None:
            self.forms = [(layer, torch.compile(layer.forward, dynamic=True)) for layer in models.layers(self.model)]
            if not self._agree(few):
                self.forms = []
        # Where activations are recomputed, the backward pass calls the layers again, after this context.
        recomputed = any(getattr(layer, "gradient_checkpointing", False) for layer, _ in self.forms)
        with nullcontext() if recomputed else self._replaced():
            yield

    def _agree(self, few: Callable[[], object]) -> bool:
        """Whether every compiled layer agrees with the original."""
        name, agreed = type(self.model).__name__, [True]

        def compare(layer: nn.Module, given: tuple[Any, ...], named: dict[str, Any]) -> None:
            if agreed[-1]:
                others = dict(named)
                states, *rest = given or (others.pop("hidden_states"),)
                own, form = (
                    functools.partial(_read, layer, f, states, rest, others) for f in (layer.forward, known[layer])
                )
                agreed.append(_equal(name, own, form, before=states.detach()))

        known = dict(self.forms or ())
        hooks = [layer.register_forward_pre_hook(compare, with_kwargs=True) for layer in known]
        trained = any(p.requires_grad for p in self.model.parameters())
        try:
            with models.evaluating(self.model), torch.set_grad_enabled(trained):
                few()
        finally:
            for hook in hooks:
                hook.remove()
        return agreed[-1]

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        for layer, form in self.forms or ():
            layer.forward = form
        try:
            yield
        finally:
            for layer, _ in self.forms or ():
                del layer.forward


def _read(
    layer: nn.Module, form: Callable[..., Any], states: Tensor, rest: Sequence[Any], named: dict[str, Any]
) -> list[Tensor]:
    """A layer's output, and gradients of a projection of it in its input and in its first and last parameter."""
    own = states.detach().requires_grad_(states.requires_grad)
    found = form(own, *rest, **named)
    output: Tensor = found if isinstance(found, Tensor) else found[0]
    trained = [p for p in layer.parameters() if p.requires_grad]
    ends = [own, *trained[:1], *trained[-1:]] if own.requires_grad else trained[:1] + trained[-1:]
    if not output.requires_grad:
        return [output]
    # Not a sum or a norm, which a last normalisation keeps constant.
    weights = torch.arange(output.numel(), device=output.device).float().cos().view(output.shape)
    gradients = torch.autograd.grad((output.float() * weights).sum(), ends, allow_unused=True)
    return [output.detach(), *(one for one in gradients if one is not None)]


def _equal(what: str, own: Form, compiled: Form, before: Tensor | None = None) -> bool:
    """Whether two forms agree; if not, a warning says so.

    Args:
        what: what is compiled.
        own: the original.
        compiled: the compiled form.
        before: of a layer, the hidden states that the first tensor is made of.

    """
    try:
        expected, found = own(), compiled()
    except Exception as error:  # noqa: BLE001  compilers fail in many ways, and machines may have none
        reason = f"{type(error).__name__}: {str(error).strip()}".split("\n", 1)[0]
        _log.warning("%s is not compiled: %s", what, reason)
        return False
    for n, (a, b) in enumerate(zip(expected, found, strict=True)):
        tolerance = TOLERANCE[a.dtype] if before is None else WITHIN * TOLERANCE[_arithmetic(a)]
        gap = _difference(a, b, None if n else before) / tolerance
        if not gap <= 1:  # nor is it without a number
            _log.warning("%s is not compiled: it then differs by %.2g times what rounding explains", what, gap)
            return False
    return True


def _difference(expected: Tensor, found: Tensor, before: Tensor | None) -> float:
    """The norm of a difference, but for the tensors' own rounding, relative to that of what they add to `before`."""
    rounding = torch.finfo(expected.dtype).eps * expected.float().abs()
    beyond = ((expected.float() - found.float()).abs() - rounding).clamp_min(0)
    added = expected.float() if before is None else expected.float() - before.float()
    return float(beyond.norm() / added.norm().clamp_min(1e-12))


def _arithmetic(values: Tensor) -> torch.dtype:
    """The precision of matrix products that make some values."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
