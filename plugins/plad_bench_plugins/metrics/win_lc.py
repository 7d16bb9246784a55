"""Length-controlled win rate: an estimate of the win rate for texts of equal length.

Dubois et al. 2024 (arXiv:2404.04475, AlpacaEval 2 LC) fit a logistic regression of the judge's preference with a term
for the model, one for the difference of lengths and one for the difficulty of the instruction, and predict with the
second set to zero. The first two of these are fitted here, to one cell; difficulties need many models.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from plad_bench import Metric, Need, Params, Scored, StageError, Tools, param
from plad_bench.contract.words import words

RIDGE = 1e-3
"""Weight per example of the squared length coefficient: keeps it finite if length decides every win."""


class LengthControlledParams(Params):
    """Parameters of win-lc."""

    scorer: str = param("win-teacher", source="ours")
    """Selector of the win rate against the teacher's responses to control, such as win-judge[model=NAME]."""


def score(examples: Sequence[Scored], params: LengthControlledParams, tools: Tools) -> list[float]:
    """The wins, each without the part that the fit attributes to length; NaN if there is no win or loss."""
    wins = np.array(tools.scores())
    if len(wins) != len(examples) or (wins < 0).any() or (wins > 1).any():
        raise StageError(f"win-lc: {params.scorer} is not a win rate of 0 to 1", "Choose one, such as win-teacher.")
    difference = np.array([len(words(e.response)) - len(words(e.teacher or "")) for e in examples], dtype=float)
    return [float(value) for value in controlled(wins, difference)]


def controlled(wins: NDArray[np.float64], difference: NDArray[np.float64]) -> NDArray[np.float64]:
    """Values [E] whose mean is sigmoid(theta), the win rate at equal length.

    With z = tanh(difference / its standard deviation), theta and phi fit P(win) = sigmoid(theta + phi z). An example's
    value is win - (sigmoid(theta + phi z) - sigmoid(theta)). At the optimum the fitted probabilities average to the
    wins, so the values average to sigmoid(theta).

    Args:
        wins: 0 to 1, NaN if there is none, [E].
        difference: length of the response less that of its opponent, [E].
    """
    known = ~np.isnan(wins)
    values = np.full(len(wins), math.nan)
    if not known.any():
        return values
    spread = difference[known].std()
    z = np.tanh(difference[known] / spread) if spread else np.zeros(known.sum())
    theta, phi = _fit(wins[known], z)
    values[known] = wins[known] - (_sigmoid(theta + phi * z) - _sigmoid(theta))
    return values


def _fit(wins: NDArray[np.float64], z: NDArray[np.float64]) -> tuple[float, float]:
    """The minimum of the mean cross-entropy with RIDGE phi^2; the mean alone if every comparison ended alike."""
    from scipy import optimize

    if wins.min() == wins.max():
        rate = min(max(wins[0], 1e-12), 1 - 1e-12)
        return math.log(rate / (1 - rate)), 0.0

    def loss(x: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        logits = x[0] + x[1] * z
        error = _sigmoid(logits) - wins
        value = np.mean(np.logaddexp(0, logits) - wins * logits) + RIDGE * x[1] ** 2
        return float(value), np.array([error.mean(), (error * z).mean() + 2 * RIDGE * x[1]])

    found = optimize.minimize(loss, np.zeros(2), jac=True, method="BFGS", options={"gtol": 1e-10})
    return float(found.x[0]), float(found.x[1])


def _sigmoid(x: NDArray[np.float64] | float) -> NDArray[np.float64]:
    from scipy import special

    return np.asarray(special.expit(x), dtype=np.float64)


RECORDS = (
    Metric(
        name="win-lc",
        summary="Length-controlled win rate: another win rate, at equal length of both texts.",
        better="higher",
        unit="%",
        cost="that of the win rate it controls, which is computed once",
        formula="w - (sigmoid(theta + phi z) - sigmoid(theta)), w the win of 0 to 1, z = tanh((|y| - |y_T|) / sd) in "
        "words, theta and phi a logistic regression of w on z over the cell; the mean is sigmoid(theta). After "
        "AlpacaEval 2 LC (arXiv:2404.04475) without its term for the difficulty of instructions. Intervals treat the "
        "fit as fixed",
        needs=frozenset({Need.TEACHER, Need.SCORES}),
        params=LengthControlledParams,
        score=score,
    ),
)
