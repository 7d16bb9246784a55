"""Tasks without references, and the metrics that read references."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench.contract.enums import Need

if TYPE_CHECKING:
    from plad_bench.plan.chosen import Chosen


def has_references(task: Chosen) -> bool:
    """Whether the examples of a task have references."""
    return bool(task.component.references(task.params))


def reads_references(metric: Chosen) -> bool:
    """Whether a metric, or its scorer, needs references."""
    return Need.REFERENCES in metric.component.needs or (metric.scorer is not None and reads_references(metric.scorer))
