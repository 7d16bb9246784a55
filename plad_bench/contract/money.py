"""Money: what tokens of an endpoint cost, and the purse from which all the stages of a run pay."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

from plad_bench.contract.errors import BudgetError, MissingError


@dataclass(frozen=True, kw_only=True)
class Price:
    """What tokens cost, in a currency of the user's."""

    per_million_in: float
    per_million_out: float
    extra_in: int = 0
    """Prompt tokens of every question beside those of the prompt, such as an instruction's."""
    extra_out: int = 0
    """Tokens a question may generate beside the response, such as reasoning."""

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """The cost of so many prompt tokens and generated tokens."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@dataclass(frozen=True, kw_only=True)
class Asks:
    """What is asked of an endpoint about one prompt, or about one response to it."""

    questions: int
    texts: int = 0
    """Responses that a question quotes beside the prompt, each as long as the protocol lets it be."""
    extra_in: int = 0
    """Tokens of a question beside those."""
    tokens_out: int
    """The most that an answer has."""
    price: Price | None
    """None if nobody said."""


@dataclass
class Purse:
    """What a run may spend. Processes share it through a file that holds what is spent or promised so far.

    A request reserves the most it can cost before it is sent and settles the true cost afterwards. What a killed
    process had reserved stays reserved: it may have been billed.
    """

    file: Path | None = None
    """None: this process alone counts."""
    limit: float = float("inf")
    _spent: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spent(self) -> float:
        """Spent or promised so far.

        Raises:
            MissingError: if the file cannot be read: nothing more may be spent then.
        """
        if self.file is None:
            return self._spent
        try:
            if not math.isfinite(spent := float(self.file.read_text(encoding="ascii"))):
                raise ValueError(f"{spent} is no amount")  # noqa: TRY301
        except FileNotFoundError:
            return 0.0
        except (OSError, ValueError) as error:
            raise MissingError(
                f"what this run has spent cannot be read from {self.file.name}: {error}",
                "What was bought is kept: start the command again, which counts anew.",
            ) from error
        return spent

    def reserve(self, amount: float) -> None:
        """Promise an amount.

        Raises:
            BudgetError: if that could exceed the limit; nothing is then promised.
        """
        self._add(amount, limit=self.limit)

    def settle(self, reserved: float, spent: float) -> None:
        """Replace what was reserved by what it cost."""
        self._add(spent - reserved, limit=float("inf"))

    def _add(self, amount: float, limit: float) -> None:
        if amount == 0:
            return
        with self._lock:
            if self.file is None:
                self._spent = _within(self._spent + amount, limit)
                return
            from filelock import FileLock

            with FileLock(self.file.with_suffix(".lock")):
                total = _within(self.spent + amount, limit)
                temporary = self.file.with_suffix(".tmp")
                temporary.write_text(f"{total:.12f}", encoding="ascii")
                temporary.replace(self.file)  # whole or not at all: half a number would be forgotten money


def _within(total: float, limit: float) -> float:
    if total > limit:
        raise BudgetError(
            f"the next question could take this run beyond --max-cost {limit:g}",
            "What was bought is kept: run the same command again, with --max-cost for what is still to be bought.",
        )
    return total
