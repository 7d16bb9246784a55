"""The components that a plugin registers, one record type per kind.

A record is frozen and has a `name`, a one-line `summary`, an integer `version` (increase it whenever the same
parameters would give another result: it is part of every key) and a typed `params` class. A function is given as the
function itself or as "module:function", which is resolved in the worker. In both cases its module must not import torch
at the top.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from plad_bench.contract.enums import Access, Need, Text
from plad_bench.contract.examples import Candidates, Loaded, Pair, Response, Scored
from plad_bench.contract.launching import LauncherSession, LaunchOptions
from plad_bench.contract.models import ModelSource, Published
from plad_bench.contract.money import Asks, Price
from plad_bench.contract.objectives import PairObjective, TokenObjective
from plad_bench.contract.params import MethodParams, PairParams, Params, TaskParams
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.requests import Request, RequestContext

if TYPE_CHECKING:
    from plad_bench.contract.tools import Scorers, Tools


@dataclass(frozen=True, kw_only=True)
class Component:
    """Base of all records."""

    name: str
    summary: str
    version: int = 1
    params: type[Params] = Params


@dataclass(frozen=True, kw_only=True)
class Teacher(Component):
    """A source of teacher outputs: a model that runs locally, or a function that returns responses."""

    provides: frozenset[Access]
    """The outputs that it can provide; they determine which methods can use it."""
    model: Callable[[Any], ModelSource] | None = None
    """params -> the teacher's model; None if `responses` is given."""
    training: Callable[[Any], Training | None] = lambda params: None
    """params -> how the teacher is fine-tuned on the task's references before use; None uses the model as it is."""
    responses: str | Callable[[Sequence[Request], Any, RequestContext], Iterable[Sequence[Response]]] | None = None
    """(requests, params, context) -> the responses to each request, in order. Called in a worker. A request without a
    response is an error, unless `context.counts["without_response"]` is the number of such requests."""
    immediate: bool = False
    """Whether `responses` returns immediately, without requests. It is then also called before any work, to find errors
    early."""
    price: Callable[[Any], Price | None] | None = None
    """params -> the price of tokens, or None if unknown. Leave it out if requests are free."""
    require: Callable[[Any], None] = lambda params: None
    """params -> None. Called before any work; raises MissingError if the teacher is unavailable."""
    backend: Literal["", "transformers", "vllm"] = ""
    """The backend that generates its responses; empty for the protocol's."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.responses is None):
            msg = f"teacher {self.name}: give either model or responses"
            raise ValueError(msg)
        if self.model is None and self.provides - {Access.TEXT}:
            msg = f"teacher {self.name}: only a teacher with a model can provide more than text"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Training:
    """Fine-tuning of a teacher on the task's references."""

    steps: int
    lr: float
    """Peak learning rate."""
    batch: int = 32
    lora: int = 0
    """LoRA rank; 0 trains all weights."""
    select: Literal["best", "last"] = "last"
    """Which checkpoint to use: the best by the task's metric on validation prompts, or the last."""


@dataclass(frozen=True, kw_only=True)
class Student(Component):
    """A student model."""

    model: Callable[[Any], ModelSource]
    """params -> the student's model."""
    teacher: str = ""
    """Selector of the default teacher."""


@dataclass(frozen=True, kw_only=True)
class Task(Component):
    """A data set of prompts, usually with references."""

    params: type[Params] = TaskParams
    """A subclass of `TaskParams`; a class that is not is extended by it."""
    load: str | Callable[[Any], Iterable[Loaded]]
    """params -> all examples, with a `BadRow` for each unusable row. Called in a worker, and before any work to find
    errors early. The harness groups, splits, deduplicates and audits the examples."""
    dataset: str
    """Hub id of the data set, or its citation."""
    revision: str | None = None
    licence: str
    redistributable: bool
    """False keeps all texts of the task out of records, boards and pages."""
    protocol: Protocol = field(default_factory=Protocol)
    metrics: tuple[str, ...]
    """Selectors of the default metrics; the first one ranks."""
    student: str
    """Selector of the default student."""
    references: Callable[[Any], bool] = lambda params: True
    """params -> whether the examples have references. If not, the SFT initialisation trains on the teacher's responses,
    and methods and metrics that read references are skipped."""
    hub: Callable[[Any], Published | None] = lambda params: None
    """params -> the data set on the hub that `load` reads, at the commit `contract.hub.pinned`. The commit is part of
    the key."""
    require: Callable[[Any], None] = lambda params: None
    """params -> None. Called before any work; raises MissingError if the data is unavailable."""
    artifacts: Callable[[], Path | None] = lambda: None
    """A directory of stage artifacts that ship with the task."""

    def __post_init__(self) -> None:
        if (
            isinstance(self.params, type)
            and issubclass(self.params, Params)
            and not issubclass(self.params, TaskParams)
        ):
            own = self.params
            extended = type(own.__name__, (own, TaskParams), {"__module__": own.__module__, "__doc__": own.__doc__})
            object.__setattr__(self, "params", extended)


@dataclass(frozen=True, kw_only=True)
class Metric(Component):
    """A metric with one value per example; it can also score other texts."""

    better: str | None
    """"higher", "lower", or None if the metric is reported but not ranked."""
    unit: str = ""
    """"%" displays values from 0 to 1 as 0 to 100."""
    cost: str = ""
    """Cost of computing it, in a few words."""
    formula: str = ""
    """Formula of one example's value in plain text, as shown in docs/metrics.md."""
    needs: frozenset[str] = frozenset()
    """Values of `Need`: the inputs of its score stage."""
    success: float | None = None
    """The value of a correct response, if the metric verifies responses; sampled evaluation then counts these responses
    (pass@k). None if a response is better or worse, but not correct."""
    of_samples: bool = False
    """Whether a value describes all responses to a prompt together, such as their diversity. The metric then gets only
    the samples of `--evaluate-samples`, those of a prompt one after another and with its id, and gives each of them the
    value of its prompt."""
    hub: Callable[[Any], Published | None] = lambda params: None
    """params -> the model on the hub that it reads, at the commit `contract.hub.pinned`. The commit is part of the
    key."""
    require: Callable[[Any], None] = lambda params: None
    """params -> None. Called before any work; raises MissingError if the metric cannot be computed."""
    asks: Callable[[Any], Asks] | None = None
    """params -> its requests to an endpoint per response. Leave it out if it sends no paid requests. They are paid from
    `Tools.budget`."""
    score: str | Callable[[Sequence[Scored], Any, Tools], Sequence[float] | Mapping[str, float]]
    """(examples, params, tools) -> one value per example, NaN if undefined. A metric with examples of its own returns a
    mapping from their names to values instead."""

    def __post_init__(self) -> None:
        if unknown := self.needs - set(Need):
            msg = f"{self.name} has unknown needs {', '.join(sorted(unknown))}; known: {', '.join(Need)}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class PairBuilder(Component):
    """Builds preference pairs from responses; the harness drops pairs that the filter parameters exclude."""

    params: type[PairParams] = PairParams
    needs: frozenset[Text]
    build: str | Callable[[Sequence[Candidates], Any, Scorers], Iterable[Pair]]
    """(candidates, params, scorers) -> pairs, with the best pair of each prompt first."""
    scorer: Callable[[Any], str] = lambda params: params.scorer
    """params -> selector of the metric that orders responses or measures margins; empty if none."""
    samples: Callable[[Any], int] = lambda params: 1
    """params -> minimum number of responses per prompt."""


@dataclass(frozen=True, kw_only=True)
class Method(Component):
    """A distillation method, with its paper, requirements and objective."""

    params: type[Params] = MethodParams
    paper: str
    """arXiv id ("arXiv:2406.02886") or citation."""
    title: str
    """Title of the paper."""
    equation: str
    """The loss in plain text, as shown in docs/methods.md."""
    access: Access
    objective: TokenObjective | PairObjective
    shared_vocabulary: bool = True
    """Whether teacher and student logits are compared token by token; False for a method that works across
    tokenizers."""
    control: bool = False
    """Whether it is a control, which deliberately lacks the teacher's information. Controls are shown as baselines, are
    not ranked, and are not part of `all` methods."""
    step_cost: str = ""
    """Cost of a step beyond one forward and backward pass of the student, in a few words."""


@dataclass(frozen=True, kw_only=True)
class Launcher(Component):
    """Runs stages in slots on a device."""

    open: Callable[[Any, LaunchOptions], LauncherSession]


@dataclass(frozen=True, kw_only=True)
class Check(Component):
    """A check of `doctor`. If it raises or hangs, it fails, and the other checks still run."""

    run: Callable[[], Iterable[Finding]]
    slow: bool = False
    """Whether to run it with `--slow` only."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A result of a check, with a remedy if there is a problem."""

    ok: bool
    message: str
    remedy: str = ""
    """With ok=True, a remedy turns the finding into a warning."""

    @property
    def level(self) -> Literal["ok", "warning", "failed"]:
        """Severity of the finding."""
        return "failed" if not self.ok else "warning" if self.remedy else "ok"
