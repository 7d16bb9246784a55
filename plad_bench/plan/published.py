"""Properties of a published model that are known before it is loaded: its size, and whether it is an instruct model.

For a model on the hub they come from its id and alias, not from cached files, because the same command must plan the
same run on every machine. For a directory or a GGUF file they come from its content.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import MissingError

if TYPE_CHECKING:
    from plad_bench.contract.models import HubModel

_SIZE = re.compile(r"(?<![\d.a-z])(?:(\d+)x)?(\d+(?:\.\d+)?)(m|b)(?![a-z0-9])", re.IGNORECASE)
"""A number of parameters in a name: 135M, 0.5B, 6.9b, 8x7B."""
_INSTRUCT = re.compile(r"(?<![a-z])(instruct|chat|it|sft|dpo|rlhf)(?![a-z])", re.IGNORECASE)
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
        settings = hub.settings(directory / "tokenizer_config.json", "")
    except MissingError:  # reported when the model's files are checked
        return False
    return bool(settings.get("chat_template")) or (directory / "chat_template.jinja").is_file()


def _header(model: HubModel) -> gguf.Header:
    """The header of a GGUF file; an empty one if it cannot be read, which is reported when the model is checked."""
    try:
        return gguf.header(Path(model.id))
    except MissingError:
        return gguf.Header({}, {})


def _stored(directory: Path) -> float | None:
    """The number of parameters in the safetensors files of a directory; None if a file cannot be read."""
    total = 0
    for file in directory.glob("*.safetensors"):
        try:
            with file.open("rb") as opened:
                length = int.from_bytes(opened.read(8), "little")
                if length > _LONGEST_HEADER:
                    return None
                header = json.loads(opened.read(length))
            total += sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None
    return float(total) or None
