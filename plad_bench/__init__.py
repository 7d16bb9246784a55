"""plad-bench: compare methods of distilling a language model under one controlled protocol.

Everything a plugin author imports is here: `hookimpl`, `Params`, `param` and the record types.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plad_bench.contract.errors import MissingError, PladBenchError, StageError, UnmeasuredError, UsageError
    from plad_bench.contract.hookspecs import hookimpl
    from plad_bench.contract.money import Asks, Price
    from plad_bench.contract.params import MethodParams, PairParams, Params, TaskParams, param
    from plad_bench.contract.protocol import Protocol
    from plad_bench.contract.records import (
        Access,
        Asking,
        BadRow,
        Candidates,
        Check,
        Event,
        Example,
        Finding,
        HubModel,
        Launcher,
        LauncherSession,
        LaunchOptions,
        Loaded,
        Method,
        Metric,
        Need,
        Origin,
        Pair,
        PairBatch,
        PairBuilder,
        PairObjective,
        PromptFormat,
        Question,
        Response,
        Sampling,
        Schedule,
        Scored,
        ScratchModel,
        Source,
        StageProcess,
        Student,
        Task,
        Teacher,
        Term,
        Text,
        TokenObjective,
        Trace,
        Training,
    )
    from plad_bench.contract.tools import LanguageModel, Scorers, Tools

__version__ = "0.1.0"

_HOME = {
    "hookspecs": "hookimpl",
    "money": "Asks Price",
    "params": "MethodParams PairParams Params TaskParams param",
    "protocol": "Protocol",
    "errors": "MissingError PladBenchError StageError UnmeasuredError UsageError",
    "records": "Access Asking BadRow Candidates Check Event Example Finding HubModel LaunchOptions Launcher "
    "LauncherSession Loaded Method Metric Need Origin Pair PairBatch PairBuilder PairObjective Question "
    "PromptFormat Response Sampling Schedule Scored ScratchModel Source StageProcess Student Task Teacher Term Text "
    "TokenObjective Trace Training",
    "tools": "LanguageModel Scorers Tools",
}
_MODULE = {name: module for module, names in _HOME.items() for name in names.split()}

__all__ = [
    "Access",
    "Asking",
    "Asks",
    "BadRow",
    "Candidates",
    "Check",
    "Event",
    "Example",
    "Finding",
    "HubModel",
    "LanguageModel",
    "LaunchOptions",
    "Launcher",
    "LauncherSession",
    "Loaded",
    "Method",
    "MethodParams",
    "Metric",
    "MissingError",
    "Need",
    "Origin",
    "Pair",
    "PairBatch",
    "PairBuilder",
    "PairObjective",
    "PairParams",
    "Params",
    "PladBenchError",
    "Price",
    "PromptFormat",
    "Protocol",
    "Question",
    "Response",
    "Sampling",
    "Schedule",
    "Scored",
    "Scorers",
    "ScratchModel",
    "Source",
    "StageError",
    "StageProcess",
    "Student",
    "Task",
    "TaskParams",
    "Teacher",
    "Term",
    "Text",
    "TokenObjective",
    "Tools",
    "Trace",
    "Training",
    "UnmeasuredError",
    "UsageError",
    "__version__",
    "hookimpl",
    "param",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `plad-bench --help` does not wait for pydantic."""
    if name not in _MODULE:
        msg = f"module 'plad_bench' has no attribute {name!r}"
        raise AttributeError(msg)
    return getattr(import_module(f"plad_bench.contract.{_MODULE[name]}"), name)
