"""Money: what tokens of an endpoint cost, and the budget from which all the stages of a run pay."""

from __future__ import annotations

import math
import threading
from dataclasses import dataclass, field
from pathlib import Path

from plad_bench.contract import locks
from plad_bench.contract.errors import BudgetError, MissingError
from plad_bench.contract.files import write_atomically
from plad_bench.contract.renamed import former_names


@dataclass(frozen=True, kw_only=True)
class Price:
    """What tokens cost, in a currency of the user's."""

    per_million_in: float
    per_million_out: float
    extra_in: int = 0
    """Prompt tokens of every request beside those of the prompt, such as an instruction's."""
    extra_out: int = 0
    """Tokens a request may generate beside the response, such as reasoning."""

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """The cost of so many prompt tokens and generated tokens."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@former_names(questions="requests")
@dataclass(frozen=True, kw_only=True)
class Asks:
    """What is asked of an endpoint about one prompt, or about one response to it."""

    requests: int
    texts: int = 0
    """Responses that a request quotes beside the prompt, each as long as the protocol lets it be."""
    extra_in: int = 0
    """Tokens of a request beside those."""
    tokens_out: int
    """The most that an answer has."""
    price: Price | None
    """None if nobody said."""


@dataclass
class Budget:
    """What a run may spend. Processes share it through a file that holds what is spent or promised so far.

    A request reserves the most it can cost before it is sent and settles the true cost afterwards. What a killed
    process had reserved stays reserved: it may have been billed. Whoever sets a limit makes the file (`open`); where it
    is gone, nothing more may be spent.
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
            MissingError: if the file cannot be read, or is not there and there is a limit: nothing more may be spent.
        """
        if self.file is None:
            return self._spent
        try:
            if not math.isfinite(spent := float(self.file.read_text(encoding="ascii"))):
                raise ValueError(f"{spent} is no amount")  # noqa: TRY301
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and self.limit == float("inf"):
                return 0.0
            raise MissingError(
                f"what this run has spent cannot be read from {self.file.name}: {error}",
                "What was bought is kept: start the command again, which counts anew.",
            ) from error
        return spent

    def open(self) -> None:
        """Make the file that says that nothing is spent yet. Errors as `write_atomically`."""
        if self.file is not None:
            write_atomically(self.file, b"0")

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
            self.file.parent.mkdir(parents=True, exist_ok=True)  # a run without a limit opened no file
            with locks.held(self.file.with_suffix(".lock")):
                # Whole or not at all: half a number would be forgotten money.
                write_atomically(self.file, f"{_within(self.spent + amount, limit):.12f}".encode())


def _within(total: float, limit: float) -> float:
    if total > limit:
        raise BudgetError(
            f"the next request could take this run beyond --max-cost {limit:g}",
            "What was bought is kept: run the same command again, with --max-cost for what is still to be bought.",
        )
    return total
