"""The errors a user can meet. Each says what failed and on which input, carries a remedy, and knows its exit code."""

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
    """Base of every expected error: a message, what to do about it, and the exit code."""

    exit_code: ExitCode = ExitCode.FAILED

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message}\n  {self.remedy}" if self.remedy else self.message


class UsageError(PladBenchError):
    """A name, parameter or option that does not exist or is out of range."""

    exit_code = ExitCode.USAGE


class MissingError(PladBenchError):
    """A prerequisite is absent: a model, a data set, a GPU, a package, the network."""

    exit_code = ExitCode.MISSING


class PluginError(PladBenchError):
    """A plugin is broken, or registers something malformed."""

    exit_code = ExitCode.PLUGIN


class NothingSelectedError(PladBenchError):
    """The selection matches nothing."""

    exit_code = ExitCode.NOTHING


class BudgetError(PladBenchError):
    """A run reached what it may spend; what it bought is kept."""

    exit_code = ExitCode.BUDGET


class CorruptArtifactError(PladBenchError):
    """A stored artifact is not what its manifest says."""


class StageError(PladBenchError):
    """A stage failed for a reason its message explains; the cells that need it fail, nobody else's."""


class UnmeasuredError(StageError):
    """A metric cannot be had for this cell, for a reason its message explains; the cell counts without it."""
