"""Prices of an endpoint's tokens, and the budget that all stages of a run share."""

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
    """The price of tokens, in the user's currency."""

    per_million_in: float
    per_million_out: float
    extra_in: int = 0
    """Prompt tokens per request beyond the prompt, such as those of an instruction."""
    extra_out: int = 0
    """Tokens that a request may generate beyond the response, such as reasoning."""

    def of(self, tokens_in: float, tokens_out: float) -> float:
        """The cost of a number of prompt tokens and generated tokens."""
        return (tokens_in * self.per_million_in + tokens_out * self.per_million_out) / 1e6


@former_names(questions="requests")
@dataclass(frozen=True, kw_only=True)
class Asks:
    """The requests to an endpoint per prompt, or per response."""

    requests: int
    texts: int = 0
    """Number of responses that a request quotes beside the prompt, each up to the protocol's length limit."""
    extra_in: int = 0
    """Further prompt tokens per request."""
    tokens_out: int
    """Maximum number of generated tokens per request."""
    price: Price | None
    """None if unknown."""


@dataclass
class Budget:
    """The budget of a run. Processes share it through a file with the amount that is spent or reserved so far.

    Before a request is sent, its maximum cost is reserved; afterwards the actual cost is settled. The reservations of a
    killed process remain, because its requests may have been billed. A run with a limit creates the file (`open`); if
    the file disappears, no more money can be spent.
    """

    file: Path | None = None
    """None if the budget is not shared with other processes."""
    limit: float = float("inf")
    _spent: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def spent(self) -> float:
        """Amount that is spent or reserved so far.

        Raises:
            MissingError: if the file cannot be read, or is missing although there is a limit.
        """
        if self.file is None:
            return self._spent
        try:
            if not math.isfinite(spent := float(self.file.read_text(encoding="ascii"))):
                raise ValueError(f"{spent} is not an amount")  # noqa: TRY301
        except (OSError, ValueError) as error:
            if isinstance(error, FileNotFoundError) and self.limit == float("inf"):
                return 0.0
            raise MissingError(
                f"cannot read the amount that this run has spent from {self.file.name}: {error}",
                "Paid responses are kept. Run the command again; it starts with a new budget.",
            ) from error
        return spent

    def open(self) -> None:
        """Create the file, with nothing spent. Errors as `write_atomically`."""
        if self.file is not None:
            write_atomically(self.file, b"0")

    def reserve(self, amount: float) -> None:
        """Reserve an amount.

        Raises:
            BudgetError: if the limit could be exceeded; nothing is then reserved.
        """
        self._add(amount, limit=self.limit)

    def settle(self, reserved: float, spent: float) -> None:
        """Replace a reservation by the actual cost."""
        self._add(spent - reserved, limit=float("inf"))

    def _add(self, amount: float, limit: float) -> None:
        if amount == 0:
            return
        with self._lock:
            if self.file is None:
                self._spent = _within(self._spent + amount, limit)
                return
            self.file.parent.mkdir(parents=True, exist_ok=True)  # a run without a limit has not created the file
            with locks.held(self.file.with_suffix(".lock")):
                # Atomically, because a partial write would lose the amount.
                write_atomically(self.file, f"{_within(self.spent + amount, limit):.12f}".encode())


def _within(total: float, limit: float) -> float:
    if total > limit:
        raise BudgetError(
            f"the next request could exceed --max-cost {limit:g}",
            "Paid responses are kept. Run the same command again, with --max-cost for the remaining requests.",
        )
    return total
