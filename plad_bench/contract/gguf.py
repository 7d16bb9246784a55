"""Reads what a GGUF file says of its model: sizes, vocabulary and chat template. transformers reads its weights.

The layout is that of https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. For a vocabulary of 262,144 tokens the
reader of the package gguf takes 14 s, and this one 1 s.
"""

from __future__ import annotations

import functools
import math
import mmap
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from plad_bench.contract.errors import MissingError
from plad_bench.contract.files import unreadable

SUFFIX = ".gguf"
_VERSIONS = (2, 3)
_NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Type of a value -> its format in `struct`."""
_STRING, _ARRAY = 8, 9
_LONGEST, _MOST_DIMENSIONS = 1 << 24, 4
"""Elements of an array, far more than any vocabulary has, and dimensions of a tensor, as in the specification."""
_TOKENS, _KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_PARTS = {"general", "tokenizer"}
"""What transformers lists beside architectures."""
_ORDINARY = (1, 6)
"""Types of tokens that stand for text: normal ones and bytes."""
_SIZES = {
    "block_count": "num_hidden_layers",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "context_length": "max_position_embeddings",
    "vocab_size": "vocab_size",
}
"""Name in a GGUF file, after that of the architecture -> name in config.json."""


@dataclass(frozen=True)
class Header:
    """The part of a GGUF file before its weights."""

    metadata: Mapping[str, Any]
    """Key -> value; of arrays, a list."""
    tensors: Mapping[str, Sequence[int]]
    """Name of each tensor -> its shape."""

    @property
    def architecture(self) -> str:
        """The architecture, such as llama."""
        return str(self.metadata.get("general.architecture", ""))

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return sum(math.prod(shape) for shape in self.tensors.values())

    @property
    def template(self) -> str:
        """The chat template; empty if there is none."""
        return str(self.metadata.get("tokenizer.chat_template", ""))

    @functools.cached_property
    def tokens(self) -> Mapping[str, int]:
        """Token -> id."""
        return {token: number for number, token in enumerate(self.metadata.get(_TOKENS, ()))}

    @property
    def text_tokens(self) -> Mapping[str, int]:
        """Token -> id, of tokens that stand for text."""
        kinds = self.metadata.get(_KINDS)
        return {token: number for token, number in self.tokens.items() if not kinds or kinds[number] in _ORDINARY}

    @property
    def config(self) -> dict[str, Any]:
        """The sizes that the file states, by their names in config.json."""
        said = {new: self.metadata.get(f"{self.architecture}.{old}") for old, new in _SIZES.items()}
        said["vocab_size"] = said["vocab_size"] or len(self.tokens) or None
        sizes = {name: value for name, value in said.items() if value is not None}
        tied = "output.weight" not in self.tensors
        return {"model_type": self.architecture, "tie_word_embeddings": tied, **sizes}


def is_gguf(model: str | Path) -> bool:
    """Whether a model is a GGUF file rather than a hub id or a directory."""
    return Path(model).suffix.lower() == SUFFIX and Path(model).is_file()


def header(file: Path) -> Header:
    """The header of a GGUF file.

    Raises:
        MissingError: if the file is truncated, unreadable, or not a GGUF file.
    """
    try:
        found = file.stat()
        return _header(file, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise unreadable(file.name, error) from error
    except (struct.error, ValueError, KeyError, OverflowError, RecursionError, MemoryError):
        raise MissingError(f"{file.name} is incomplete or not a GGUF file", "Copy or download it again.") from None


def check(file: Path, what: str) -> None:
    """Check that transformers can load a GGUF file: its packages, its architecture, and that it has a tokenizer.

    Raises:
        MissingError: if not; the message begins with `what`.
    """
    for package in ("gguf", "accelerate"):  # transformers demands both
        if find_spec(package) is None:
            raise MissingError(
                f"{what}: reading GGUF files needs the package {package}, which is not installed",
                "pip install 'plad-bench[gguf]'",
            )
    found = header(file)
    if _plain(found.architecture) not in map(_plain, _supported()):
        raise MissingError(
            f"{what}: transformers does not load GGUF files of the architecture {found.architecture!r}",
            "Give the model as a Hugging Face directory with safetensors, or as a GGUF file of another architecture: "
            f"{', '.join(sorted(_supported()))}.",
        )
    if not found.tokens or "tokenizer.ggml.eos_token_id" not in found.metadata:
        raise MissingError(f"{what} has no tokenizer with an end token", "Convert the model again, with its tokenizer.")


def _supported() -> frozenset[str]:
    """The architectures whose GGUF files transformers loads."""
    from transformers import integrations
    from transformers.modeling_gguf_pytorch_utils import GGUF_TO_TRANSFORMERS_MAPPING

    known: Any = GGUF_TO_TRANSFORMERS_MAPPING["config"]
    newer: Any = getattr(integrations, "gguf", None)  # from transformers 5.23, for architectures that it reads itself
    return frozenset([*known, *getattr(newer, "GGUF_CONFIG_ARCHS", ())]) - _PARTS


def _plain(architecture: str) -> str:
    """A name of an architecture as both transformers and GGUF files may spell it."""
    return architecture.replace("-", "").replace("_", "")


@functools.lru_cache(maxsize=8)
def _header(file: Path, size: int, modified: int) -> Header:
    """The header, read again if the size or the modification time (ns) has changed."""
    with file.open("rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
        return _Layout(data).header()


class _Layout:
    """Reads the parts of a header one after the other."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data, self._at = data, 0

    def header(self) -> Header:
        magic, version, tensors, values = self._take("4sIQQ")
        if magic != b"GGUF" or version not in _VERSIONS:
            msg = "not a GGUF file"
            raise ValueError(msg)
        metadata = {self._string(): self._value(self._take("I")[0]) for _ in range(values)}
        shapes, last = {}, 0
        for _ in range(tensors):
            name = self._string()
            (dimensions,) = self._take("I")
            if dimensions > _MOST_DIMENSIONS:
                msg = "a tensor of too many dimensions"
                raise ValueError(msg)
            shapes[name] = self._take(f"{dimensions}Q")
            _, offset = self._take("IQ")
            last = max(last, offset)
        if self._at + last >= len(self._data):
            msg = "weights are missing"
            raise ValueError(msg)
        if not _is_vocabulary(metadata.get(_TOKENS, []), metadata.get(_KINDS, [])):
            msg = "not a vocabulary"
            raise ValueError(msg)
        return Header(metadata, shapes)

    def _take(self, format_: str) -> tuple[Any, ...]:
        found = struct.unpack_from(f"<{format_}", self._data, self._at)
        self._at += struct.calcsize(f"<{format_}")
        return found

    def _string(self) -> str:
        (length,) = self._take("Q")
        text = self._data[self._at : self._at + length]
        self._at += length
        return text.decode("utf-8", "replace")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._take(_NUMBERS[kind])[0]
        kind, length = self._take("IQ")
        if length > _LONGEST:
            msg = "an array of too many elements"
            raise ValueError(msg)
        if kind in _NUMBERS:
            return list(self._take(f"{length}{_NUMBERS[kind]}"))
        return [self._value(kind) for _ in range(length)]


def _is_vocabulary(tokens: Any, kinds: Any) -> bool:
    """Whether two values are lists of texts and of their types, which may be left out."""
    lists = isinstance(tokens, list) and isinstance(kinds, list)
    return lists and all(isinstance(token, str) for token in tokens) and len(kinds) in {0, len(tokens)}
