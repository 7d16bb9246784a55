"""plad-bench: compare methods of distilling a language model under one controlled protocol.

Everything a plugin author imports is here: `hookimpl`, `Params`, `param` and the record types. `API_VERSION` is the
version of all that.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from plad_bench.contract.api import API_VERSION
    from plad_bench.contract.components import (
        Check,
        Finding,
        Launcher,
        Method,
        Metric,
        PairBuilder,
        Student,
        Task,
        Teacher,
        Training,
    )
    from plad_bench.contract.enums import Access, Need, Text
    from plad_bench.contract.errors import MissingError, PladBenchError, StageError, UnmeasuredError, UsageError
    from plad_bench.contract.events import Event
    from plad_bench.contract.examples import BadRow, Candidates, Example, Loaded, Origin, Pair, Response, Scored, Source
    from plad_bench.contract.hookspecs import hookimpl
    from plad_bench.contract.launching import LauncherSession, LaunchOptions, StageProcess
    from plad_bench.contract.models import HubModel, PromptFormat, ScratchModel
    from plad_bench.contract.money import Asks, Price
    from plad_bench.contract.objectives import PairBatch, PairObjective, Sampling, Schedule, Term, TokenObjective, Trace
    from plad_bench.contract.params import MethodParams, PairParams, Params, TaskParams, param
    from plad_bench.contract.protocol import Protocol
    from plad_bench.contract.requests import Request, RequestContext
    from plad_bench.contract.tools import LanguageModel, Scorers, Tools
    from plad_bench.contract.views import BoardView, CellView
    from plad_bench.running.api import run

__version__ = "0.1.0"

_HOME = {
    "api": "API_VERSION",
    "hookspecs": "hookimpl",
    "money": "Asks Price",
    "params": "MethodParams PairParams Params TaskParams param",
    "protocol": "Protocol",
    "errors": "MissingError PladBenchError StageError UnmeasuredError UsageError",
    "enums": "Access Need Text",
    "models": "HubModel PromptFormat ScratchModel",
    "components": "Check Finding Launcher Method Metric PairBuilder Student Task Teacher Training",
    "objectives": "PairBatch PairObjective Sampling Schedule Term TokenObjective Trace",
    "examples": "BadRow Candidates Example Loaded Origin Pair Response Scored Source",
    "requests": "Request RequestContext",
    "launching": "LaunchOptions LauncherSession StageProcess",
    "events": "Event",
    "tools": "LanguageModel Scorers Tools",
    "views": "BoardView CellView",
}
_MODULE = {name: f"contract.{module}" for module, names in _HOME.items() for name in names.split()}
_MODULE["run"] = "running.api"

__all__ = [
    "API_VERSION",
    "Access",
    "Asks",
    "BadRow",
    "BoardView",
    "Candidates",
    "CellView",
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
    "Request",
    "RequestContext",
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
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `plad-bench --help` does not wait for pydantic."""
    if name not in _MODULE:
        from plad_bench.contract.renamed import API, warn

        if name not in API:
            msg = f"module 'plad_bench' has no attribute {name!r}"
            raise AttributeError(msg)
        warn(f"plad_bench.{name}", f"plad_bench.{API[name]}", stacklevel=2)
        name = API[name]
    return getattr(import_module(f"plad_bench.{_MODULE[name]}"), name)
