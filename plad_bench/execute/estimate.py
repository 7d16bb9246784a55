"""Estimates a run's requests to endpoints, for teachers and metrics, in tokens and money, before any is sent."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from plad_bench.contract.jsonlines import numbered
from plad_bench.contract.money import Asks, Price
from plad_bench.execute.stages.data import Prepared, preview
from plad_bench.execute.stages.files import Prompt, read_prompts
from plad_bench.execute.store import RESPONSE_CACHE, Store
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import Chosen
from plad_bench.plan.stage import Stage

BYTES_PER_TOKEN = 4
"""Bytes of a prompt per token, approximately: English text with a large vocabulary."""

_Number = TypeVar("_Number", int, float)


@dataclass(frozen=True, kw_only=True)
class RequestEstimate:
    """The remaining requests of the stages with one name to one endpoint. None marks what only the run will know."""

    asked: str
    """The teacher or the metric."""
    stage: str
    requests: int | None
    answered: int
    """Requests that an earlier run sent."""
    tokens_in: int | None
    """Estimate for the remaining requests."""
    tokens_out: int | None
    """At most."""
    priced: bool
    """Whether a price is known."""
    money: float | None
    """Upper bound, in the currency of the prices."""

    def __add__(self, other: RequestEstimate) -> RequestEstimate:
        return RequestEstimate(
            asked=self.asked,
            stage=self.stage,
            requests=_sum(self.requests, other.requests),
            answered=self.answered + other.answered,
            tokens_in=_sum(self.tokens_in, other.tokens_in),
            tokens_out=_sum(self.tokens_out, other.tokens_out),
            priced=self.priced,
            money=_sum(self.money, other.money),
        )


@dataclass(frozen=True)
class _Asker:
    """A component that sends requests, with their number per prompt; None if that depends on its input."""

    cell: Cell
    chosen: Chosen
    stage: Stage
    asks: Asks | None
    priced: bool


def estimates(cells: Iterable[Cell], store: Store, data: Mapping[str, Prepared] | None = None) -> list[RequestEstimate]:
    """One estimate for each teacher or metric and stage name. Reads a task's data if no run has.

    Args:
        cells: the cells to run.
        store: the store that may have the tasks' data.
        data: task label -> data that was read already.
    """
    found: dict[tuple[str, str], RequestEstimate] = {}
    seen: set[tuple[str, str]] = set()
    prompts = Prompts(store, data or {})
    for asker in (asker for cell in cells for asker in _askers(cell)):
        label, stage = asker.chosen.label, asker.stage
        if (label, stage.key) not in seen and store.find(stage.key) is None:
            seen.add((label, stage.key))
            one, key = _estimate(asker, store, prompts), (label, stage.name)
            found[key] = found[key] + one if key in found else one
    return list(found.values())


def _askers(cell: Cell) -> Iterator[_Asker]:
    for stage in cell.stages:
        if stage.operation == "ask" and cell.teacher.component.price is not None:  # otherwise it is read from a file
            yield _teacher(cell, cell.teacher.component.price, stage)
        if stage.operation == "pairs":
            for scorer in (cell.orders, cell.scorer):
                yield from _scorers(cell, scorer, stage)
    for metric in cell.metrics:
        if metric.label in cell.scores:
            yield from _metrics(cell, metric, cell.scores[metric.label])
    for label, (metric, _) in cell.at_points.items():
        yield from _metrics(cell, metric, cell.scores[label])


def _teacher(cell: Cell, prices: Callable[[Any], Price | None], stage: Stage) -> _Asker:
    price = prices(cell.teacher.params)
    asks = Asks(
        requests=stage.spec.get("samples", 1),
        extra_in=price.extra_in if price else 0,
        tokens_out=stage.spec["max_new_tokens"] + (price.extra_out if price else 0),
        price=price,
    )
    return _Asker(cell, cell.teacher, stage, asks, priced=price is not None)


def _metrics(cell: Cell, metric: Chosen, stage: Stage) -> Iterator[_Asker]:
    """The metric of a score stage, if it sends requests, and the metrics that score for it."""
    if metric.component.asks is not None:
        asks = metric.component.asks(metric.params)
        yield _Asker(cell, metric, stage, asks, priced=asks.price is not None)
    if metric.scorer is not None and "scores" in stage.inputs:
        yield from _metrics(cell, metric.scorer, stage.inputs["scores"])
    else:
        yield from _scorers(cell, metric.scorer, stage)


def _scorers(cell: Cell, metric: Chosen | None, stage: Stage) -> Iterator[_Asker]:
    """The metric that scores texts for another component, and the metrics that score for it."""
    if metric is None:
        return
    if metric.component.asks is not None:
        price = metric.component.asks(metric.params).price
        yield _Asker(cell, metric, stage, None, priced=price is not None)
    yield from _scorers(cell, metric.scorer, stage)


def _estimate(asker: _Asker, store: Store, prompts: Prompts) -> RequestEstimate:
    stage, asks = asker.stage, asker.asks
    response_cache = store.partial(stage.key) / RESPONSE_CACHE
    lines = numbered(io.BytesIO(response_cache.read_bytes())) if response_cache.is_file() else ()
    answered = len({line for _, line in lines})
    requests = tokens_in = tokens_out = money = None
    if asks is not None:
        decoded = stage if stage.operation == "ask" else stage.inputs["responses"]
        every = prompts.of(asker.cell, decoded)
        requests = len(every) * asks.requests
        answered = min(requests, answered)
        left = requests - answered
        size = sum(len(p.prompt.encode()) for p in every) / BYTES_PER_TOKEN / max(1, len(every))
        tokens_in = round(left * (size + asks.texts * decoded.spec["max_new_tokens"] + asks.extra_in))
        tokens_out = left * asks.tokens_out
        money = asks.price.of(tokens_in, tokens_out) if asks.price else None
    return RequestEstimate(
        asked=asker.chosen.label,
        stage=stage.name,
        requests=requests,
        answered=answered,
        tokens_in=tokens_in,
        tokens_out=tokens_out,
        priced=asker.priced,
        money=money,
    )


class Prompts:
    """The prompts of splits, each read once: from the store, or from the task if no run has stored them."""

    def __init__(self, store: Store, data: Mapping[str, Prepared]) -> None:
        self._store, self._data = store, dict(data)
        self._known: dict[tuple[str, str, int], Sequence[Prompt]] = {}

    def of(self, cell: Cell, decoded: Stage) -> Sequence[Prompt]:
        """The prompts that a stage responds to, from its data stage, or from the task if no run has stored them."""
        name, limit = decoded.spec["split"], decoded.spec.get("limit", 0)
        key = (decoded.inputs["data"].key, name, limit)
        if key not in self._known:
            made = self._store.find(key[0])
            self._known[key] = read_prompts(made, name, limit) if made else self._loaded(cell.task, name, limit)
        return self._known[key]

    def _loaded(self, task: Chosen, name: str, limit: int) -> list[Prompt]:
        prepared = self._data.setdefault(task.label, Prepared())
        if not prepared.prompts:
            prepared = self._data[task.label] = preview(task)
        return list(itertools.islice((p for p in prepared.prompts if p.split == name), limit or None))


def _sum(one: _Number | None, other: _Number | None) -> _Number | None:
    return None if one is None or other is None else one + other
