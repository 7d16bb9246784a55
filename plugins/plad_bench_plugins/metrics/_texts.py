"""Measures a model on the references of examples, for several metrics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from plad_bench import LanguageModel, Response, Scored

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor


def on_references(
    examples: Sequence[Scored],
    model: LanguageModel,
    function: Callable[..., Tensor],
    beside: LanguageModel | None = None,
) -> list[NDArray[np.float64]]:
    """K numbers at every token of every reference (see `LanguageModel.measure`): an array [T, K] per example.

    T counts the tokens of all references of the example together, end tokens included; it is 0 without references.
    """
    texts = [(e.prompt, Response(text=reference)) for e in examples for reference in e.references]
    rows = iter(model.measure(texts, function, beside) if texts else [])
    parts = [[next(rows) for _ in e.references] for e in examples]
    return [np.concatenate(part) if part else np.zeros((0, 1)) for part in parts]


def means(rows: Sequence[NDArray[np.float64]], column: int = 0) -> list[float]:
    """The mean of a column over the tokens of each example; NaN without tokens."""
    return [float(row[:, column].mean()) if len(row) else float("nan") for row in rows]
