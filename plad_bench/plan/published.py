"""Properties of a published model that are known before it is loaded: its size, and whether it is an instruct model.

For a model on the hub they come from its id and alias, not from cached files, because the same command must plan the
same run on every machine. For a directory or a GGUF file they come from its content.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import MissingError

if TYPE_CHECKING:
    from plad_bench.contract.models import HubModel

_SIZE = re.compile(r"(?<![\d.a-z])(?:(\d+)x)?(\d+(?:\.\d+)?)(m|b)(?![a-z0-9])", re.IGNORECASE)
"""A number of parameters in a name: 135M, 0.5B, 6.9b, 8x7B."""
_INSTRUCT = re.compile(r"(?<![a-z])(instruct|chat|it|sft|dpo|rlhf)(?![a-z])", re.IGNORECASE)
_LAYER = re.compile(r"\.(\d+)\.")
"""The index of a layer in the name of a tensor."""
_UNIT = {"m": 1e6, "b": 1e9}
_LONGEST_HEADER = 100_000_000


def parameters(model: HubModel) -> float | None:
    """The number of parameters of a model before pruning; None if unknown."""
    if model.parameters:
        return model.parameters
    if gguf.is_gguf(model.id):
        return _header(model).parameters or None
    if Path(model.id).is_dir():
        return _stored(Path(model.id))
    found = _SIZE.search(model.id.rpartition("/")[2])
    return int(found[1] or 1) * float(found[2]) * _UNIT[found[3].lower()] if found else None


def pruned_parameters(model: HubModel, layers: int, inner: int, width: int) -> int | None:
    """The exact number of parameters after pruning, from local files.

    None if they are not on this machine, or the layers differ in size.

    Args:
        model: the model.
        layers: the number of layers to keep.
        inner: its number of neurons per MLP.
        width: the number of neurons to keep, `inner` for all.
    """
    place = hub.located(model.id, model.revision)
    shapes = None if place is None else _header(model).tensors if gguf.is_gguf(place) else _shapes(place)
    if not shapes:
        return None
    rest, each = 0, Counter[str]()
    for name, shape in shapes.items():
        size = math.prod(width if side == inner else side for side in shape)
        if (layer := _LAYER.search(name)) is None:
            rest += math.prod(shape)
        else:
            each[layer[1]] += size
    return rest + layers * next(iter(each.values())) if len(set(each.values())) == 1 else None


def is_instruct(model: HubModel) -> bool:
    """Whether a model is instruction-tuned, according to its name or the chat template of its files."""
    directory = Path(model.id)
    if _INSTRUCT.search(directory.name):
        return True
    if gguf.is_gguf(directory):
        return bool(_header(model).template)
    if not directory.is_dir():
        return False
    try:
        return bool(hub.chat_template(directory, ""))
    except MissingError:  # reported when the model's files are checked
        return False


def _header(model: HubModel) -> gguf.Header:
    """The header of a GGUF file; an empty one if it cannot be read, which is reported when the model is checked."""
    try:
        return gguf.header(Path(model.id))
    except MissingError:
        return gguf.Header({}, {})


def _stored(directory: Path) -> float | None:
    """The number of parameters in the safetensors files of a directory; None if a file cannot be read."""
    return float(sum(math.prod(shape) for shape in (_shapes(directory) or {}).values())) or None


def _shapes(directory: Path) -> Mapping[str, Sequence[int]] | None:
    """Name -> shape of the tensors in the safetensors files of a directory; None if a file cannot be read."""
    found: dict[str, Sequence[int]] = {}
    for file in directory.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                if length > _LONGEST_HEADER:
                    return None
                header = json.loads(opened.read(length))
            shapes = {name: tensor["shape"] for name, tensor in header.items() if name != "__metadata__"}
            found |= {name: [int(side) for side in shape] for name, shape in shapes.items()}
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
    return found
