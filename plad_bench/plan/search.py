"""What tuning searches for each method, and the cells that its trials are.

A trial is an ordinary cell: the method with other values of the parameters that its space names, scored by the metric
that ranks on the validation split, under one seed that no row of a board has.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from plad_bench.contract.errors import UsageError
from plad_bench.contract.params import search_of
from plad_bench.plan import recipes
from plad_bench.plan.trials import SEED, Dimension, Values

if TYPE_CHECKING:
    from plad_bench.plan.cell import Cell
    from plad_bench.plan.chosen import Chosen

AROUND = 10.0
"""The learning rate is searched from the usual one divided by this to the usual one times this."""


def space(cell: Cell) -> tuple[Dimension, ...]:
    """The parameters of a cell's method that are searched: its learning rate, and those that declare a range.

    A parameter that the selector sets is left as it is.

    Raises:
        UsageError: if nothing is left.
    """
    method = _method(cell)
    found = []
    for name, info in type(method.params).model_fields.items():
        declared, value = search_of(type(method.params), name), getattr(method.params, name)
        if value != info.default:
            continue
        if name == "lr" and declared is None:
            found.append(_rates(cell))
        elif declared is not None:
            low, high, *scale = declared
            found.append(Dimension(name, low, high, bool(scale), info.annotation is int, value))
    if not found:
        raise UsageError(
            f"nothing of {method.label} is left to tune", "Leave lr out of its selector, or run without --tune."
        )
    return tuple(found)


def _rates(cell: Cell) -> Dimension:
    usual, model = cell.protocol.lr, recipes.published(cell.student)
    highest = usual * AROUND
    if model is not None:
        highest = min(highest, max(recipes.of_model(model, lora=cell.protocol.lora).highest_lr, usual))
    return Dimension("lr", usual / AROUND, highest, log=True, whole=False, default=usual)


def defaults(dimensions: tuple[Dimension, ...]) -> Values:
    """The values that hold without tuning."""
    return {dimension.name: dimension.default for dimension in dimensions}


def spread(dimensions: tuple[Dimension, ...], number: int, of: int) -> Values:
    """The defaults for number 0, and otherwise values at the share `number / of` of each range."""
    return {d.name: d.at(number / of) for d in dimensions} if number else defaults(dimensions)


def tuned(cell: Cell, dimensions: tuple[Dimension, ...], values: Values) -> Chosen:
    """The method of a cell with these values of its searched parameters; as it was where all are the defaults."""
    method, usual = _method(cell), defaults(dimensions)
    changed = {name: value for name, value in values.items() if value != usual[name]}
    return replace(method, params=method.params.model_copy(update=changed)) if changed else method


def trial(cell: Cell, dimensions: tuple[Dimension, ...], values: Values, metric: Chosen) -> Cell:
    """The cell that tries these values."""
    method = tuned(cell, dimensions, values)
    protocol = replace(cell.protocol, split="validation", tune=0, evaluate_at="", evaluate_samples=0)
    return replace(
        cell,
        method=method,
        row=method.label + cell.row.removeprefix(_method(cell).label),
        protocol=protocol,
        plan=replace(cell.plan, protocol=protocol, seed=SEED),
        seed=SEED,
        metrics=(metric,),
        absent={},
    )


def _method(cell: Cell) -> Chosen:
    assert cell.method is not None  # noqa: S101  baselines are not tuned
    return cell.method
