"""Negative log-likelihood of the task's references under the student."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from plad_bench import Metric, Need, Params, Scored, Tools, param
from plad_bench_plugins.metrics._texts import on_references

if TYPE_CHECKING:
    from torch import Tensor


class NLLParams(Params):
    """Parameters of nll."""

    per: Literal["token", "byte"] = param("token", source="ours")
    """Divide by the number of the model's tokens (with the end token), or by UTF-8 bytes of the references, which makes
    models with different tokenizers comparable."""


def score(examples: Sequence[Scored], params: NLLParams, tools: Tools) -> list[float]:
    """-log q(references | prompt) over their tokens or bytes, in nats; NaN without references."""
    rows = on_references(examples, tools.checkpoint(), _surprise)
    sizes = (len(row) if params.per == "token" else _bytes(e) for e, row in zip(examples, rows, strict=True))
    return [float(row.sum()) / size if size else float("nan") for row, size in zip(rows, sizes, strict=True)]


def _surprise(logits: Tensor, labels: Tensor) -> Tensor:
    from plad_bench.learn.divergences import cross_entropy

    return cross_entropy(logits, labels)[:, None]


def _bytes(example: Scored) -> int:
    return sum(len(reference.encode()) for reference in example.references)


RECORDS = (
    Metric(
        name="nll",
        summary="Negative log-likelihood of the references per token, in nats; its exponential is a perplexity.",
        better="lower",
        unit="nats",
        cost="one forward pass over the references",
        formula="sum over its references of -log q(y|x), divided by their tokens. A row's "
        "value averages examples, not tokens",
        needs=frozenset({Need.CHECKPOINT, Need.REFERENCES}),
        params=NLLParams,
        score=score,
    ),
)
