"""Sampled evaluation: the metrics that score several responses to a prompt, and the statistics of their values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from plad_bench.contract.enums import Need
from plad_bench.plan.stages import metrics_needs

if TYPE_CHECKING:
    from plad_bench.plan.chosen import Chosen


@dataclass(frozen=True)
class Statistic:
    """A statistic of a metric's values of the K samples of each prompt."""

    metric: Chosen
    kind: Literal["avg", "pass", "set"]
    """The mean over the samples, the probability that one of k is correct, or a value of all samples together."""
    k: int
    """Of pass@k; otherwise K."""

    @property
    def label(self) -> str:
        """Its name in records, such as "final-answer pass@4"."""
        return self.metric.label if self.kind == "set" else f"{self.metric.label} {self.kind}@{self.k}"


def statistics(metrics: Sequence[Chosen], samples: int) -> Iterator[Statistic]:
    """The statistics of each metric that can score samples."""
    for metric in metrics:
        if metric.component.of_samples:
            yield Statistic(metric, "set", samples)
        elif scores_samples(metric):
            yield Statistic(metric, "avg", samples)
            for k in powers(samples) if metric.component.success is not None else ():
                yield Statistic(metric, "pass", k)


def scores_samples(metric: Chosen) -> bool:
    """Whether a metric can score samples: it reads only text, and sends no requests, which may have a price."""
    if metrics_needs(metric) - {Need.REFERENCES, Need.TEACHER}:
        return False
    scorer: Chosen | None = metric
    while scorer is not None:
        if scorer.component.asks is not None:
            return False
        scorer = scorer.scorer
    return True


def powers(samples: int) -> list[int]:
    """1, 2, 4, ... below the number of samples, and this number."""
    return [*(1 << n for n in range((samples - 1).bit_length())), samples]
