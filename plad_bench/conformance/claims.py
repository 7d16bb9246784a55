"""A claim: something that is true of every component of a kind, how it is tested, and what to do where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.contract.registry import configure

Test = Callable[[Any], None]


class NotKept(AssertionError):  # noqa: N818  a finding, not an error of ours
    """A claim does not hold, for a reason that has a remedy of its own."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True)
class Verdict:
    """How a component stands to a claim."""

    claim: str
    level: Literal["ok", "warning", "failed", "unknown"]
    problem: str = ""
    remedy: str = ""
    """What to do about the problem; empty where there is none."""

    def __str__(self) -> str:
        return f"{self.claim}: {self.problem}" + (f"\n  {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Claim:
    """Something that is true of every component of a kind that `applies` accepts."""

    text: str
    kind: str
    """Empty: every kind."""
    test: Test
    """Raises AssertionError if the claim does not hold, and MissingError if that cannot be checked here."""
    remedy: str
    """What an author should do if it does not hold."""
    applies: Callable[[Any], bool] = lambda component: True
    advice: bool = False
    """The usual case; a component may have reasons to differ."""

    def verdict(self, component: Any) -> Verdict:
        """Test a component."""
        try:
            self.test(component)
        except MissingError as error:
            return Verdict(self.text, "unknown", error.message, error.remedy)
        except AssertionError as error:
            problem = " ".join(filter(None, str(error).strip().splitlines()[:4]))
            remedy = error.remedy if isinstance(error, NotKept) else self.remedy
            return Verdict(self.text, "warning" if self.advice else "failed", problem, remedy)
        except (Exception, SystemExit) as error:  # noqa: BLE001  somebody else's code
            return Verdict(self.text, "failed", f"{type(error).__name__}: {error}", self.remedy)
        return Verdict(self.text, "ok")


CLAIMS: list[Claim] = []


def claim(
    text: str,
    kind: str = "",
    *,
    remedy: str,
    applies: Callable[[Any], bool] = lambda component: True,
    advice: bool = False,
) -> Callable[[Test], Test]:
    """Register a claim."""

    def register(test: Test) -> Test:
        CLAIMS.append(Claim(text, kind, test, remedy, applies, advice))
        return test

    return register


def see(condition: object, problem: str, remedy: str = "") -> None:
    """Raise `problem` unless the condition holds; a remedy given here takes the place of the claim's."""
    if not condition:
        raise NotKept(problem, remedy) if remedy else AssertionError(problem)


def default_params(component: Any) -> Any:
    """Default parameters.

    Raises:
        MissingError: for a component that works only with parameters which nobody gave.
    """
    try:
        return configure(component, {})
    except UsageError as error:
        raise MissingError(f"it needs parameters: {error.message}", "Test it with parameters of your own.") from None
