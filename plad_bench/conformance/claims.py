"""Claims about components: a statement, its test and a remedy."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.contract.registry import configure

Test = Callable[[Any], None]


class NotKept(AssertionError):  # noqa: N818  a finding, not an error of ours
    """A claim fails for a reason with its own remedy."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem)
        self.remedy = remedy


@dataclass(frozen=True)
class Verdict:
    """The result of testing a claim on a component."""

    claim: str
    level: Literal["ok", "warning", "failed", "unknown"]
    problem: str = ""
    remedy: str = ""
    """Remedy for the problem; empty if there is none."""

    def __str__(self) -> str:
        return f"{self.claim}: {self.problem}" + (f"\n  {self.remedy}" if self.remedy else "")


@dataclass(frozen=True)
class Claim:
    """A statement that must hold for every component of a kind that `applies` accepts."""

    text: str
    kind: str
    """Kind of component; empty for all kinds."""
    test: Test
    """Raises AssertionError if the claim does not hold, and MissingError if that cannot be checked here."""
    remedy: str
    """Remedy for the author if the claim fails."""
    applies: Callable[[Any], bool] = lambda component: True
    advice: bool = False
    """Whether the claim is advice, to which there can be exceptions."""

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
    """Raise `problem` unless the condition holds; a remedy given here replaces the claim's."""
    if not condition:
        raise NotKept(problem, remedy) if remedy else AssertionError(problem)


def default_params(component: Any) -> Any:
    """Default parameters.

    Raises:
        MissingError: if the component has required parameters.
    """
    try:
        return configure(component, {})
    except UsageError as error:
        raise MissingError(f"it needs parameters: {error.message}", "Test it with parameters of your own.") from None
