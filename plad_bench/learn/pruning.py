"""Depth pruning: a smaller student from some of the layers of a bigger model, with their weights.

Papers initialise students this way if no smaller sibling is published (DistilBERT, arXiv:1910.01108, takes
every other layer of its teacher; arXiv:2403.03853 drops those that change the hidden states least).
"""

from __future__ import annotations

from torch import nn
from transformers import PreTrainedModel

from plad_bench.contract.errors import StageError


def chosen(layers: str, total: int) -> list[int]:
    """Indices of the layers to keep, ascending.

    Args:
        layers: their number, or their indices joined by "+", from 0. Of a number, the first and the last are kept, and
        the others are evenly spaced.
        total: layers of the model.

    Raises:
        StageError: if the model has fewer layers.
    """
    if "+" in layers:
        kept = sorted({int(part) for part in layers.split("+")})
    else:
        count = int(layers)
        kept = sorted({round(i * (total - 1) / max(count - 1, 1)) for i in range(min(count, total))})
        if count > total:
            raise StageError(f"layers={layers}: the model has {total} layers", "Keep fewer.")
    if kept[-1] >= total:
        raise StageError(f"layers={layers}: the index of the last layer is {total - 1}", "Count layers from 0.")
    return kept


def prune(model: PreTrainedModel, layers: str) -> list[int]:
    """Keep only these layers of a decoder, in place; return the kept indices.

    Raises:
        StageError: if its layers are not a single list with a length in the configuration, as in an encoder-decoder.
    """
    config = model.config
    total = config.num_hidden_layers
    lists = [
        (name, part) for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and len(part) == total
    ]
    if len(lists) != 1 or config.is_encoder_decoder:
        raise StageError(f"the layers of a {type(model).__name__} cannot be pruned", "Choose a decoder-only model.")
    kept = chosen(layers, total)
    name, stack = lists[0]
    model.set_submodule(name, nn.ModuleList(stack[index] for index in kept))
    for place, layer in enumerate(model.get_submodule(name).children()):
        for part in layer.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                setattr(part, "layer_idx", place)  # noqa: B010  mypy cannot know what a module may have
    if getattr(config, "layer_types", None):
        config.layer_types = [config.layer_types[index] for index in kept]
    config.num_hidden_layers = len(kept)
    return kept
