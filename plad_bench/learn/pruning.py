"""Pruning: a smaller student from some of the layers and MLP neurons of a bigger model, with their weights.

Papers initialise students this way if no smaller sibling is published (DistilBERT, arXiv:1910.01108, takes every other
layer of its teacher). Two measures choose what to keep, both averaged over the tokens of training text:

- layers, by block influence (ShortGPT, arXiv:2403.03853, section 2.2): with hidden state x before a layer and y after
  it, 1 - cos(x, y). The layers with the lowest influence are dropped.
- neurons, by activation (Minitron, arXiv:2407.14679, section 2.2, which compares several averages): |a| of the
  activation a that the neuron hands to the MLP's last matrix.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plad_bench.contract.errors import StageError


@dataclass(frozen=True)
class Importance:
    """Measured importance of the parts of a model."""

    layers: Sequence[float]
    """Block influence of each layer, 0 to 2."""
    neurons: Sequence[Tensor]
    """For each layer, the mean absolute activation of each MLP neuron [I]; empty if its MLP cannot be narrowed."""


def chosen(layers: str, total: int, influence: Sequence[float] = ()) -> list[int]:
    """Indices of the layers to keep, ascending.

    Args:
        layers: their number, or their indices joined by "+", from 0. Of a number, those with the highest influence are
            kept; without influence the first, the last, and others at even spaces.
        total: layers of the model.
        influence: block influence of each layer.

    Raises:
        StageError: if the model has fewer layers.
    """
    if "+" in layers:
        kept = sorted({int(part) for part in layers.split("+")})
    else:
        count = int(layers)
        if count > total:
            raise StageError(f"layers={layers}: the model has {total} layers", "Keep fewer.")
        if influence:
            kept = sorted(sorted(range(total), key=lambda index: influence[index])[total - count :])
        else:
            kept = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(count)})
    if kept[-1] >= total:
        raise StageError(f"layers={layers}: the index of the last layer is {total - 1}", "Count layers from 0.")
    return kept


def measured(model: PreTrainedModel, texts: Iterable[Sequence[int]]) -> Importance:
    """The importance of a decoder's layers and neurons on texts, given as token ids.

    Raises:
        StageError: if its layers cannot be pruned (see `prune`), or there is no text.
    """
    layers = _stack(model)[1]
    influence, tokens = torch.zeros(len(layers), dtype=torch.float64), 0
    downs = [_matrices(layer, model)[1] for layer in layers]
    neurons = [torch.zeros(down.in_features if down else 0, dtype=torch.float64) for down in downs]

    def influences(index: int, _: nn.Module, arguments: Any, named: Any, output: Any) -> None:
        before = arguments[0] if arguments else named["hidden_states"]
        after = output[0] if isinstance(output, tuple) else output
        influence[index] += (1 - nn.functional.cosine_similarity(before.double(), after.double(), dim=-1)).sum().cpu()

    def activations(index: int, _: nn.Module, arguments: Any) -> None:
        neurons[index] += arguments[0].double().abs().flatten(0, -2).sum(0).cpu()

    with ExitStack() as hooks, torch.no_grad():
        for index, (layer, down) in enumerate(zip(layers, downs, strict=True)):
            of_layer = layer.register_forward_hook(functools.partial(influences, index), with_kwargs=True)
            hooks.callback(of_layer.remove)
            if down is not None:
                hooks.callback(down.register_forward_pre_hook(functools.partial(activations, index)).remove)
        for ids in texts:
            model(input_ids=torch.tensor([list(ids)], device=model.device), use_cache=False)
            tokens += len(ids)
    if not tokens:
        raise StageError("there is no text to measure the importance of layers on", "Provide training prompts.")
    return Importance([float(v) / tokens for v in influence], [total / tokens for total in neurons])


def prune(model: PreTrainedModel, layers: str, importance: Importance | None = None) -> list[int]:
    """Keep only these layers of a decoder (see `chosen`), in place; return the kept indices.

    Raises:
        StageError: if its layers are not a single list with a length in the configuration, as in an encoder-decoder.
    """
    config = model.config
    name, stack = _stack(model)
    kept = chosen(layers, len(stack), importance.layers if importance else ())
    model.set_submodule(name, nn.ModuleList(stack[index] for index in kept))
    for place, layer in enumerate(model.get_submodule(name).children()):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                setattr(part, "layer_idx", place)  # noqa: B010  mypy cannot know what a module may have
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    config.num_hidden_layers = len(kept)
    return kept


def narrow(model: PreTrainedModel, width: int, neurons: Sequence[Tensor]) -> None:
    """Keep the `width` neurons of highest importance [I] in the MLP of each layer, in place and in their order.

    Raises:
        StageError: if a layer has no MLP of linear modules of the configuration's intermediate_size, or a narrower one.
    """
    for layer, importance in zip(_stack(model)[1], neurons, strict=True):
        ups, down = _matrices(layer, model)
        if down is None:
            raise StageError(
                f"width={width}: the MLPs of a {type(model).__name__} cannot be narrowed",
                "Leave width= out, or choose a model with linear modules of intermediate_size, such as a Llama.",
            )
        if width > down.in_features:
            raise StageError(f"width={width}: the MLPs have {down.in_features} neurons", "Keep fewer.")
        kept = importance.topk(width).indices.sort().values.to(down.weight.device)
        for up in ups:
            up.weight, up.out_features = nn.Parameter(up.weight[kept].clone()), width
            if up.bias is not None:
                up.bias = nn.Parameter(up.bias[kept].clone())
        down.weight, down.in_features = nn.Parameter(down.weight[:, kept].clone()), width
    model.config.intermediate_size = width


def _stack(model: PreTrainedModel) -> tuple[str, nn.ModuleList]:
    """The list of a decoder's layers, and its name."""
    total = model.config.num_hidden_layers
    lists = [
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == total
    ]
    if len(lists) != 1 or model.config.is_encoder_decoder:
        raise StageError(f"the layers of a {type(model).__name__} cannot be pruned", "Choose a decoder-only model.")
    return lists[0]


def _matrices(layer: nn.Module, model: PreTrainedModel) -> tuple[list[nn.Linear], nn.Linear | None]:
    """The matrices of a layer's MLP that write its neurons, and the one that reads them; None if that is unclear."""
    inner = getattr(model.config, "intermediate_size", 0)
    linear = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    ups = [part for part in linear if part.out_features == inner]
    downs = [part for part in linear if part.in_features == inner]
    return (ups, downs[0]) if ups and len(downs) == 1 and downs[0] not in ups else ([], None)
