"""The logits of response tokens, computed from hidden states in chunks.

Logits of N tokens over V words are by far the largest tensors of a training step: a loss and its gradient hold some
eight tensors [N, V]. No tensor [B, T, V] is created: the model's body computes hidden states [N, D] of response tokens,
without prompts and padding, and its output head turns them into logits chunk by chunk; loss and gradient of a chunk are
computed before the next chunk. On a GPU a chunk fits a budget of memory. On a CPU a loss passes over as many rows of a
chunk at a time as fit its caches.
"""

from __future__ import annotations

import inspect
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from plad_bench.contract.memory_policy import COPIES, CPU_BUDGET, CPU_CHUNK, CPU_COPIES, CPU_KEPT, GPU_SHARE, chunk_of
from plad_bench.learn.compiled import CompiledLayers, CompiledLoss
from plad_bench.learn.divergences import cross_entropy
from plad_bench.learn.memory import is_short
from plad_bench.learn.models import evaluating
from plad_bench.learn.sequences import IGNORED, Batch

PARITY_TOKENS = 8
"""Predictions used to compare a head with the model's own logits."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Predictions:
    """A model's predictions of N response tokens."""

    states: Tensor
    """[N, D] hidden states, or the logits themselves, [N, V]."""
    head: Callable[[Tensor], Tensor]
    """Any n of the states -> their logits [n, V]."""
    chunk: int
    """Maximum number of tokens per chunk."""
    parameters: tuple[nn.Parameter, ...] = ()
    """The head's trained parameters."""
    kept: int = 0
    """Number of tokens whose logits fit into the memory until the backward pass."""

    def logits(self, part: slice) -> Tensor:
        """The logits of some of the tokens."""
        return self.head(self.states[part])


def existing(logits: Tensor) -> Predictions:
    """Logits [N, V] that are there already, as predictions."""
    return Predictions(logits, _same, max(1, len(logits)))


class Predictor:
    """Reads a batch with a model, and decides how many logits are computed at a time."""

    def __init__(self, model: nn.Module, rows: int = 0) -> None:
        """Wrap a model; `rows`, unless 0, is the number of tokens per chunk."""
        self.model, self.rows = model, rows
        self.agreed: bool | None = None
        """Whether this module's head reproduces the model's own logits; None before the comparison."""
        self.cross_entropy: Callable[[Tensor, Tensor], Tensor] = cross_entropy
        """(logits [n, V], labels [n]) -> -log q(label), [n]."""
        self._layers: CompiledLayers | None = None

    @property
    def compiles(self) -> bool:
        """Whether layers and losses are compiled."""
        return self._layers is not None

    def compile_parts(self) -> None:
        """Compile the model's layers and the cross-entropy at the next batch."""
        if not is_encoder_decoder(self.model):
            self._layers, self.cross_entropy = CompiledLayers(self.model), CompiledLoss(cross_entropy)

    @torch.no_grad()
    def constant(self, batch: Batch) -> Predictions:
        """Predictions without gradient."""
        return self(batch)

    def __call__(self, batch: Batch) -> Predictions:
        """Read a batch; logits are made of hidden states if the head is known."""
        head = self.head(batch)
        if head is None:
            return existing(response_logits(self.model, batch))
        with self._layers.on(lambda: response_states(self.model, first(batch))) if self._layers else nullcontext():
            states = response_states(self.model, batch)
        vocabulary = vocabulary_size(self.model)
        chunk = self.rows or chunk_size(states.shape, vocabulary, states.device)
        kept = self.rows or room_for_logits(vocabulary, states.device, kept=True)
        if states.device.type == "cuda" and len(states) > kept:
            kept = 0  # recomputing them was measured there
        return Predictions(states, head, chunk, head.trained(), kept)

    def head(self, batch: Batch) -> Head | None:
        """The output head, or None and a warning if it does not reproduce the model's own logits of a first batch."""
        if is_encoder_decoder(self.model):
            return None
        if self.agreed is None:
            self.agreed = agrees(self.model, batch)
            if not self.agreed:
                kind = type(self.model).__name__
                _log.warning("unrecognised LM head of %s; using full logits", kind)
        return Head.of(self.model) if self.agreed else None


def chunk_size(states: Sequence[int], vocabulary: int, device: torch.device) -> int:
    """The number of tokens whose logits are computed at a time, of hidden states of a shape [N, D]."""
    cached = 0 if device.type == "cuda" else CPU_CHUNK // (4 * vocabulary)
    return chunk_of(states[0], room_for_logits(vocabulary, device), states[1], cached)


def rows_at_a_time(logits: Tensor) -> int:
    """The number of rows of a chunk's logits [n, V] that a loss passes over at a time."""
    return len(logits) if logits.device.type == "cuda" else max(1, CPU_CHUNK // (4 * logits.shape[-1]))


def room_for_logits(vocabulary: int, device: torch.device, *, kept: bool = False) -> int:
    """The number of tokens whose loss over a vocabulary, or whose logits alone, fit into a device's memory for them."""
    budget, copies = (CPU_KEPT, 1) if kept else (CPU_BUDGET, CPU_COPIES)
    if device.type == "cuda":
        budget, copies = int(torch.cuda.get_device_properties(device).total_memory) // GPU_SHARE, COPIES
    return budget // (copies * 4 * vocabulary)


# ------------------------------------------------------------------------------------------------ a model's two halves


@dataclass(frozen=True)
class Head:
    """A model's output head: a linear map, optionally with bias, scaling and soft-capping."""

    linear: nn.Module
    scale: float = 1
    cap: float | None = None

    @classmethod
    def of(cls, model: nn.Module) -> Head:
        """The head of a model."""
        inner = _inner(model)
        config = inner.config.get_text_config()
        scale = (getattr(config, "logit_scale", None) or 1) / (getattr(config, "logits_scaling", None) or 1)
        return cls(inner.get_output_embeddings(), scale, getattr(config, "final_logit_softcapping", None))

    def __call__(self, states: Tensor) -> Tensor:
        """Logits [n, V] of hidden states [n, D]."""
        logits: Tensor = self.linear(states)
        logits = logits if self.scale == 1 else logits * self.scale
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)

    def trained(self) -> tuple[nn.Parameter, ...]:
        """Its trained parameters."""
        return tuple(p for p in self.linear.parameters() if p.requires_grad)


def response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of the N response predictions of a batch, row by row, [N, V], from the model itself."""
    if is_encoder_decoder(model):
        return _decoded(model, batch)
    extra: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(_inner(model).forward).parameters:
        extra["logits_to_keep"] = batch.input_ids.shape[1] - batch.start
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **extra).logits
    return logits[:, -batch.valid.shape[1] :][batch.valid]


def is_encoder_decoder(model: nn.Module) -> bool:
    """Whether the model has an encoder for the prompt and a decoder for the response."""
    return bool(_inner(model).config.is_encoder_decoder)


def _decoded(model: nn.Module, batch: Batch) -> Tensor:
    """The logits of an encoder-decoder: the encoder reads the prompts, the decoder the tokens before each label."""
    valid = batch.labels != IGNORED
    lengths = valid.int().argmax(1) + 1
    prompts = torch.arange(int(lengths.max()), device=valid.device) < lengths[:, None]
    counts = valid.sum(1)
    responses = torch.arange(int(counts.max()), device=valid.device) < counts[:, None]
    labels = batch.labels.new_zeros(responses.shape).masked_scatter(responses, batch.labels[valid])
    begin = labels.new_full((len(labels), 1), _inner(model).config.decoder_start_token_id)
    output = model(
        input_ids=batch.input_ids[:, : prompts.shape[1]],
        attention_mask=prompts.long(),
        decoder_input_ids=torch.cat([begin, labels[:, :-1]], 1),
        decoder_attention_mask=responses.long(),
        use_cache=False,
    )
    logits: Tensor = output.logits[responses]
    return logits


def response_states(model: nn.Module, batch: Batch) -> Tensor:
    """Last hidden states of the N response predictions of a batch, row by row, [N, D]."""
    body = _inner(model).base_model
    output = body(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False)
    return output.last_hidden_state[:, batch.start :][batch.valid]


def vocabulary_size(model: nn.Module) -> int:
    """Logits per token, as the model's config says."""
    return int(_inner(model).config.get_text_config().vocab_size)


def agrees(model: nn.Module, batch: Batch) -> bool:
    """Whether head and body reproduce the model's own logits and gradients for some predictions of the first row."""
    if not batch.valid[0].any():
        return True
    few = first(batch, 1, PARITY_TOKENS)
    try:
        with evaluating(model), torch.enable_grad():
            theirs = response_logits(model, few)
            ours = Head.of(model)(response_states(model, few))
            exact = theirs.dtype == torch.float32
            return _close(ours, theirs, exact=exact) and _same_gradients(model, ours, theirs, exact=exact)
    except (AttributeError, LookupError, TypeError, ValueError, RuntimeError) as error:
        if is_short(error):
            raise
        return False


def first(batch: Batch, rows: int = 2, tokens: int = 0) -> Batch:
    """The first rows of a batch; with `tokens`, up to that many tokens of the first response."""
    end = batch.input_ids.shape[1]
    if tokens:
        end = batch.start + int(batch.valid[0].nonzero()[:tokens, 0][-1]) + 1
    ids, mask, labels = (of[:rows, :end] for of in (batch.input_ids, batch.attention_mask, batch.labels))
    return Batch(ids, mask, labels, batch.start)


def _same_gradients(model: nn.Module, ours: Tensor, theirs: Tensor, *, exact: bool) -> bool:
    """Compare gradients of the squared logits in the first and the last parameters: embeddings and head."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    ends = parameters[:1] + parameters[-1:]
    if not ends:
        return True
    first, second = (torch.autograd.grad(z.float().square().sum(), ends, allow_unused=True) for z in (ours, theirs))
    return all(
        (a is None and b is None) or (a is not None and b is not None and _close(a, b, exact=exact))
        for a, b in zip(first, second, strict=True)
    )


def _close(ours: Tensor, theirs: Tensor, *, exact: bool) -> bool:
    scale = float(theirs.detach().float().abs().max())
    gap = float((ours.detach().float() - theirs.detach().float()).abs().max())
    return ours.shape == theirs.shape and gap <= (1e-4 if exact else 3e-2) * max(scale, 1e-6)


def _inner(model: nn.Module) -> Any:
    """The model without adapters around it."""
    get: Any = getattr(model, "get_base_model", None)
    return model if get is None else get()


def _same(states: Tensor) -> Tensor:
    return states


# ------------------------------------------------------------------------------------------------------ over chunks


def parts(count: int, size: int) -> Iterator[slice]:
    """Slices of `size` that cover `count` rows; at least one slice."""
    for start in range(0, max(1, count), size):
        yield slice(start, min(start + size, count))


def summed(function: Callable[[slice, Tensor], Tensor], predictions: Predictions, size: int) -> Tensor:
    """The sum over chunks of a function of (rows, their states) that gives a scalar, differentiable.

    With several chunks the gradient is computed together with the value, chunk by chunk, so that only one chunk's
    logits are held and none are computed twice.
    """
    states = predictions.states
    if len(states) <= size:
        return function(slice(0, len(states)), states)
    if not torch.is_grad_enabled():
        return torch.stack([function(part, states[part]) for part in parts(len(states), size)]).sum()
    total: Tensor = _Summed.apply(function, size, states, *predictions.parameters)
    return total


def label_logprobs(
    predictions: Predictions, labels: Tensor, loss: Callable[[Tensor, Tensor], Tensor] = cross_entropy
) -> Tensor:
    """Log-probability of each label, [N]. Logits that do not fit are recomputed for their gradient, chunk by chunk."""

    def of(words: Tensor, states: Tensor) -> Tensor:
        logits = predictions.head(states)

        def of_rows(rows: slice, some: Tensor) -> Tensor:
            return -loss(some, words[rows])

        size = rows_at_a_time(logits)
        found: Tensor = of_rows(slice(None), logits) if len(logits) <= size else _Rows.apply(of_rows, size, logits)
        return found

    states, size = predictions.states, predictions.chunk
    if len(states) <= size:
        return of(labels, states)
    kept = [part for part in parts(len(states), size) if part.stop <= predictions.kept]
    found = [of(labels[part], states[part]) for part in kept]
    if len(kept) * size < len(states):
        rest = slice(len(kept) * size, None)

        def again(part: slice, some: Tensor) -> Tensor:
            return of(labels[rest][part], some)

        found.append(_Rows.apply(again, size, states[rest], *predictions.parameters))
    return torch.cat(found)


class _Summed(torch.autograd.Function):
    """Sums a scalar over chunks, and computes its gradient in the forward pass."""

    @staticmethod
    def forward(ctx: Any, function: Any, size: int, states: Tensor, *parameters: Tensor) -> Tensor:
        values, gradients = _differentiated(function, size, states, parameters)
        ctx.save_for_backward(*gradients)
        return values.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        return None, None, *(saved.mul_(gradient) for saved in ctx.saved_tensors)


class _Rows(torch.autograd.Function):
    """A value of every row. The gradient depends on all values, so a chunk is recomputed for it."""

    @staticmethod
    def forward(ctx: Any, function: Any, size: int, states: Tensor, *parameters: Tensor) -> Tensor:
        kind = states.device.type
        ctx.autocast = (kind, torch.get_autocast_dtype(kind), torch.is_autocast_enabled(kind))
        ctx.function, ctx.size, ctx.parameters = function, size, parameters
        ctx.save_for_backward(states)
        return torch.cat([function(part, states[part]) for part in parts(len(states), size)])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
        kind, dtype, enabled = ctx.autocast
        (states,) = ctx.saved_tensors
        with torch.autocast(kind, dtype, enabled=enabled):
            _, gradients = _differentiated(ctx.function, ctx.size, states, ctx.parameters, gradient)
        return None, None, *gradients


def _differentiated(
    function: Callable[[slice, Tensor], Tensor],
    size: int,
    states: Tensor,
    parameters: Sequence[Tensor],
    upstream: Tensor | None = None,
) -> tuple[Tensor, list[Tensor]]:
    """The sums of a function of (rows, their states) for each chunk, and the gradient in states and parameters."""
    of_states, chunks = torch.zeros_like(states), list(parts(len(states), size))
    # Not a list of tensors: memory allocated between the chunks would keep that of their logits from being reused.
    values = states.new_zeros(len(chunks), dtype=torch.promote_types(states.dtype, torch.float32))
    sums: list[Tensor | None] = [None for _ in parameters]

    def add(i: int, part: slice) -> None:  # a function, so that no gradient of a chunk outlives it
        with torch.enable_grad():
            chunk = states[part].detach().requires_grad_()
            value = function(part, chunk)
            weights = None if upstream is None else upstream[part]
            of_chunk, *of_parameters = torch.autograd.grad(value, [chunk, *parameters], weights, allow_unused=True)
        values[i] = value.detach().sum()
        if of_chunk is not None:
            of_states[part] = of_chunk
        held = Counter(_memory(tensor) for tensor in (of_chunk, *of_parameters, weights))
        for k, more in enumerate(of_parameters):
            if more is None:
                continue
            if (known := sums[k]) is not None:
                known += more
                continue
            own = more.is_contiguous() and held[_memory(more)] == 1  # adding to it changes no other tensor
            sums[k] = more if own else more.clone(memory_format=torch.contiguous_format)

    for i, part in enumerate(chunks):
        add(i, part)
    found = (torch.zeros_like(p) if known is None else known for p, known in zip(parameters, sums, strict=True))
    return values, [of_states, *found]


def _memory(tensor: Tensor | None) -> int:
    """The address of a tensor's memory; 0 without a tensor."""
    return 0 if tensor is None else tensor.untyped_storage().data_ptr()
