"""A metric as a board shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MetricInfo:
    """A column."""

    name: str
    better: str | None
    unit: str

    @property
    def scale(self) -> float:
        """Factor of displayed values."""
        return 100.0 if self.unit == "%" else 1.0


@dataclass(frozen=True)
class SampledInfo(MetricInfo):
    """A column of sampled responses."""

    metric: str
    """The metric whose values of the samples it summarises."""
    kind: str
    """avg, pass or set, as in a record."""
    k: int
