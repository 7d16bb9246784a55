"""Compiles the parts of a long training on a GPU that every step repeats: its models' layers and its loss.

A divergence and its gradient take some fifteen operations, each of which reads and writes all logits, and a layer has
as many operations between its matrix products, each of which reads and writes all hidden states. The compiler makes a
few kernels of them. Compiling takes some ten seconds, so short trainings do without.

A compiled part is compared with the original on a few rows of the first batch, in values and gradients. If they differ
by more than rounding, or the machine cannot compile, a warning says so and the original is used.
"""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from plad_bench.learn import models

ROWS = 64
"""Rows of logits that a compiled loss is compared on."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 3e-2, torch.float16: 1e-2}
"""Largest difference of values and of gradients, relative to the largest value, by precision."""

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
            forms = (_differentiated(form, logits, others) for form in (self.loss, compiled))
            self.form = compiled if _equal("a loss", *forms) else self.loss
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
        """Every layer and its compiled forward; none if these differ."""

    @contextmanager
    def on(self, few: Callable[[], Tensor]) -> Iterator[None]:
        """Compiled layers within this context; at first they are compared on what `few` computes with them."""
        if self.forms is None:
            self.forms = [(layer, torch.compile(layer.forward, dynamic=True)) for layer in models.layers(self.model)]
            own = functools.partial(self._measured, few, nullcontext())
            if not _equal(type(self.model).__name__, own, functools.partial(self._measured, few, self._replaced())):
                self.forms = []
        # Where activations are recomputed, the backward pass calls the layers again, after this context.
        recomputed = any(getattr(layer, "gradient_checkpointing", False) for layer, _ in self.forms)
        with nullcontext() if recomputed else self._replaced():
            yield

    def _measured(self, few: Callable[[], Tensor], context: AbstractContextManager[None]) -> Sequence[Tensor]:
        """What `few` gives, and the gradient of a projection of it in the first and the last parameter."""
        trained = [p for p in self.model.parameters() if p.requires_grad]
        with models.evaluating(self.model), torch.set_grad_enabled(bool(trained)), context:
            states = few()
            if not trained:
                return (states,)
            ends = trained[:1] + trained[-1:]
            # Not a sum or a norm, which the last normalisation keeps constant.
            weights = torch.arange(states.numel(), device=states.device).float().cos().view(states.shape)
            gradients = torch.autograd.grad((states.float() * weights).sum(), ends, allow_unused=True)
        return states.detach(), *(one for one in gradients if one is not None)

    @contextmanager
    def _replaced(self) -> Iterator[None]:
        for layer, form in self.forms or ():
            layer.forward = form
        try:
            yield
        finally:
            for layer, _ in self.forms or ():
                del layer.forward


def _equal(what: str, own: Form, compiled: Form) -> bool:
    """Whether two forms agree; if not, a warning says so."""
    try:
        expected, found = own(), compiled()
    except Exception as error:  # noqa: BLE001  compilers fail in many ways, and machines may have none
        reason = f"{type(error).__name__}: {str(error).strip()}".split("\n", 1)[0]
        _log.warning("%s is not compiled: %s", what, reason)
        return False
    gaps = [
        float((a.float() - b.float()).abs().max() / a.float().abs().max().clamp_min(1e-12)) / TOLERANCE[a.dtype]
        for a, b in zip(expected, found, strict=True)
    ]
    if worst := max(gaps) > 1:
        _log.warning("%s is not compiled: it then differs by %.2g times what rounding explains", what, max(gaps))
    return not worst
