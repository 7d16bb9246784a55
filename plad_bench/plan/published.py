"""What is known of a published model before it is loaded: how many parameters it has, and whether it is tuned to chat.

A model on the hub is judged by its id and by what its alias says, never by files that may or may not be in the cache:
the same command has to plan the same run on every machine. A directory is judged by its files.
"""

from __future__ import annotations

import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING

from plad_bench.contract import hub
from plad_bench.contract.errors import MissingError

if TYPE_CHECKING:
    from plad_bench.contract.models import HubModel

_SIZE = re.compile(r"(?<![\d.a-z])(?:(\d+)x)?(\d+(?:\.\d+)?)(m|b)(?![a-z0-9])", re.IGNORECASE)
"""A number of parameters in a name: 135M, 0.5B, 6.9b, 8x7B."""
_INSTRUCT = re.compile(r"(?<![a-z])(instruct|chat|it|sft|dpo|rlhf)(?![a-z])", re.IGNORECASE)
_UNIT = {"m": 1e6, "b": 1e9}
_LONGEST_HEADER = 100_000_000


def parameters(model: HubModel) -> float | None:
    """How many parameters a model has, before layers are taken out; None if nobody says."""
    if model.parameters:
        return model.parameters
    if Path(model.id).is_dir():
        return _stored(Path(model.id))
    found = _SIZE.search(model.id.rpartition("/")[2])
    return int(found[1] or 1) * float(found[2]) * _UNIT[found[3].lower()] if found else None


def is_instruct(model: HubModel) -> bool:
    """Whether a model is tuned to follow instructions: its name says so, or a directory has a chat template."""
    directory = Path(model.id)
    if _INSTRUCT.search(directory.name):
        return True
    if not directory.is_dir():
        return False
    try:
        settings = hub.settings(directory / "tokenizer_config.json", "")
    except MissingError:  # said where the model's files are looked at
        return False
    return bool(settings.get("chat_template")) or (directory / "chat_template.jinja").is_file()


def _stored(directory: Path) -> float | None:
    """Parameters in the safetensors files of a directory; None if a file cannot be read, as a run tells first."""
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
