"""The errors that users can see. Each has a message with the failing input, a remedy and an exit code."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of `plad-bench`."""

    OK = 0
    FAILED = 1
    USAGE = 2
    MISSING = 3
    PLUGIN = 4
    NOTHING = 5
    BUDGET = 6
    INTERRUPTED = 130


class PladBenchError(Exception):
    """Base of all expected errors, with a message, a remedy and an exit code."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(PladBenchError):
    """A name, parameter or option is unknown, or a value is out of range."""

    exit_code = ExitCode.USAGE


class MissingError(PladBenchError):
    """A prerequisite is missing: a model, a data set, a GPU, a package, the network."""

    exit_code = ExitCode.MISSING


class PluginError(PladBenchError):
    """A plugin is broken, or registers a malformed component."""

    exit_code = ExitCode.PLUGIN


class NothingSelectedError(PladBenchError):
    """The selection is empty."""

    exit_code = ExitCode.NOTHING


class BudgetError(PladBenchError):
    """The budget of a run is spent; paid responses are kept."""

    exit_code = ExitCode.BUDGET


class CorruptArtifactError(PladBenchError):
    """A stored artifact does not match its manifest."""


class StageError(PladBenchError):
    """A stage failed for the reason in the message. The cells that depend on it fail; others continue."""


class SkippedError(StageError):
    """A cell cannot be computed under its protocol, for the reason in the message. It is recorded as skipped."""


class UnmeasuredError(StageError):
    """A metric cannot be computed for a cell, for the reason in the message. The cell is recorded without it."""
