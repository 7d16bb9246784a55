"""Statistics of a metric's values of several samples of one prompt. Prompts are the unit: each gets one number."""

from __future__ import annotations

import math
from collections.abc import Sequence


def mean(values: Sequence[float | None]) -> float:
    """The mean of the values that are not None; NaN without any."""
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


def pass_at(k: int, values: Sequence[float | None], success: float) -> float:
    """The probability that one of k of these samples, drawn without replacement, has the value of a success.

    Chen et al. (2021, arXiv:2107.03374): 1 - C(n - c, k) / C(n, k) for c successes among n samples, an unbiased
    estimate for k new samples. NaN if fewer than k samples have a value.
    """
    known = [value for value in values if value is not None]
    n, c = len(known), sum(value == success for value in known)
    return 1 - math.comb(n - c, k) / math.comb(n, k) if n >= k else math.nan
