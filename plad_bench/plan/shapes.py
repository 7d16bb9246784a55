"""Shapes of models: the sizes that determine what a model costs, known of a configuration or usual for its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any


@dataclass(frozen=True)
class Shape:
    """The sizes of a decoder that determine its memory and time."""

    layers: int
    width: int
    inner: int
    """Width of the feed-forward layers."""
    keys: int
    """Total width of the keys, or of the values, of all heads."""
    queries: int
    """Total width of the queries of all heads."""
    vocabulary: int
    tied: bool = False
    parameters: float = 0
    """Exact number of parameters if known; 0 to compute it from the sizes."""

    @property
    def body(self) -> float:
        """Parameters of the layers."""
        layer = self.width * (2 * self.queries + 2 * self.keys + 3 * self.inner)
        return float(self.layers * layer)

    @property
    def head(self) -> float:
        """Parameters of the output head."""
        return float(self.vocabulary * self.width)

    @property
    def count(self) -> float:
        """All parameters."""
        return self.parameters or self.body + self.head * (1 if self.tied else 2)

    def pruned(self, layers: int, inner: int, parameters: float | None = None) -> Shape:
        """The same model with this number of layers and MLP neurons; computes `parameters` unless they are known."""
        fewer = replace(self, layers=layers, inner=inner)
        computed = self.parameters - self.body + fewer.body if self.parameters else 0
        return replace(fewer, parameters=parameters or computed)


USUAL = (
    Shape(30, 576, 1536, 192, 576, 49_152, tied=True),
    Shape(32, 960, 2560, 320, 960, 49_152, tied=True),
    Shape(24, 896, 4864, 128, 896, 151_936, tied=True),
    Shape(16, 2048, 8192, 512, 2048, 128_256, tied=True),
    Shape(28, 3072, 8192, 1024, 3072, 128_256, tied=True),
    Shape(28, 3584, 18_944, 512, 3584, 152_064),
    Shape(32, 4096, 14_336, 1024, 4096, 128_256),
    Shape(48, 5120, 13_824, 1024, 5120, 152_064),
    Shape(64, 5120, 27_648, 1024, 5120, 152_064),
    Shape(80, 8192, 28_672, 1024, 8192, 128_256),
)
"""SmolLM2 135M and 360M, Qwen2.5 0.5B, 7B, 14B and 32B, Llama 3 1B, 3B, 8B and 70B, according to their files."""


def usual(parameters: float) -> Shape:
    """A typical shape for a number of parameters."""
    nearest = min(USUAL, key=lambda shape: abs(shape.count / parameters - 1))
    return replace(nearest, parameters=parameters)


def shape_of(config: Mapping[str, Any], parameters: float = 0) -> Shape | None:
    """The shape in a configuration; None if a size is missing, such as for an encoder-decoder."""

    def first(*names: str) -> int:
        return next((config[name] for name in names if isinstance(config.get(name), int) and config[name] > 0), 0)

    width, layers = first("hidden_size", "n_embd"), first("num_hidden_layers", "n_layer")
    heads, vocabulary = first("num_attention_heads", "n_head"), first("vocab_size")
    if config.get("is_encoder_decoder") or not (width and layers and heads and vocabulary):
        return None
    head = first("head_dim") or width // heads
    keys = first("num_key_value_heads") or heads
    inner = first("intermediate_size", "n_inner") or 4 * width
    if not first("intermediate_size"):
        inner = inner * 2 // 3  # two matrices where the others have three
    return Shape(
        layers, width, inner, keys * head, heads * head, vocabulary,
        tied=bool(config.get("tie_word_embeddings", True)), parameters=parameters,
    )  # fmt: skip


def scratch_shape(layers: int, width: int, vocabulary: int) -> Shape:
    """The shape of a model from scratch (`learn/models.py`)."""
    return Shape(layers, width, 4 * width * 2 // 3, width, width, vocabulary, tied=True)
