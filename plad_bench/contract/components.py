"""The components that a plugin registers, one record for each kind.

A record is frozen, has a `name`, a one-line `summary`, an integer `version` (raise it whenever the same parameters
would give another result: it is part of every key) and a typed `params` class. A function may be given as the
function itself or as "module:function", which is resolved in the worker; either way it must not need torch to be
imported at the top of its module.
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
    """What all records share."""

    name: str
    summary: str
    version: int = 1
    params: type[Params] = Params


@dataclass(frozen=True, kw_only=True)
class Teacher(Component):
    """A source of teacher outputs: a model that is run here, or something that is asked for text."""

    provides: frozenset[Access]
    """What decides which methods it can serve."""
    model: Callable[[Any], ModelSource] | None = None
    """params -> the teacher's model; None for a source of text."""
    training: Callable[[Any], Training | None] = lambda params: None
    """params -> how the teacher is fine-tuned on the task's references first; None uses the model as it is."""
    responses: str | Callable[[Sequence[Request], Any, RequestContext], Iterable[Sequence[Response]]] | None = None
    """(requests, params, context) -> the responses to each request, in their order. Called in a worker. No response is
    an error, unless `context.counts["without_response"]` says how many requests have none on purpose."""
    immediate: bool = False
    """Whether `responses` asks nobody and takes no time: it is then called before any work, too, to see that it will
    not fail."""
    price: Callable[[Any], Price | None] | None = None
    """params -> what asking costs, None if nobody said; no function if it costs no money."""
    require: Callable[[Any], None] = lambda params: None
    """params -> nothing; raises MissingError, before any work, if it cannot be asked."""
    backend: Literal["", "transformers", "vllm"] = ""
    """What generates the text of its model; empty: what the protocol says."""

    def __post_init__(self) -> None:
        if (self.model is None) == (self.responses is None):
            msg = f"teacher {self.name}: give either model or responses"
            raise ValueError(msg)
        if self.model is None and self.provides - {Access.TEXT}:
            msg = f"teacher {self.name}: only a model that is run here provides more than text"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Training:
    """A run of the training loop on the task's references."""

    steps: int
    lr: float
    """Peak learning rate."""
    batch: int = 32


@dataclass(frozen=True, kw_only=True)
class Student(Component):
    """A student model, under a short name."""

    model: Callable[[Any], ModelSource]
    """params -> the student's model."""
    teacher: str = ""
    """Selector of the teacher used when none is named."""


@dataclass(frozen=True, kw_only=True)
class Task(Component):
    """A data set of prompts with references."""

    params: type[Params] = TaskParams
    """Given without those of `TaskParams`, it is extended by them."""
    load: str | Callable[[Any], Iterable[Loaded]]
    """params -> all examples, and the rows that are none. Called in a worker, and before any work to see that the data
    can be used; the harness groups, splits, deduplicates and audits."""
    dataset: str
    """Hub id or citation of the data set."""
    revision: str | None = None
    licence: str
    redistributable: bool
    """False keeps every text of the task out of records, boards and pages."""
    protocol: Protocol = field(default_factory=Protocol)
    metrics: tuple[str, ...]
    """Selectors of the default metrics; the first one ranks."""
    student: str
    """Selector of the default student."""
    references: Callable[[Any], bool] = lambda params: True
    """params -> whether its examples have references. Without them the SFT initialisation learns from the teacher's
    responses, and what reads references is skipped or absent."""
    hub: Callable[[Any], Published | None] = lambda params: None
    """params -> the data set on the hub that `load` reads, at the commit of `contract.hub.pinned`, which is keyed."""
    require: Callable[[Any], None] = lambda params: None
    """params -> nothing; raises MissingError, before any work, if the data cannot be had."""
    artifacts: Callable[[], Path | None] = lambda: None
    """A directory of ready-made stage artifacts that ship with the task."""

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
    """A per-example measure of a cell, or a scorer of any text."""

    better: str | None
    """"higher", "lower", or None: reported and never ranked."""
    unit: str = ""
    """"%" shows values of 0 to 1 as 0 to 100."""
    cost: str = ""
    """What it takes to compute, in a few words."""
    formula: str = ""
    """The value of one example in plain text, as docs/metrics.md prints it."""
    needs: frozenset[str] = frozenset()
    """Values of `Need`: become inputs of its score stage."""
    hub: Callable[[Any], Published | None] = lambda params: None
    """params -> the model on the hub that it reads, at the commit of `contract.hub.pinned`, which is keyed."""
    require: Callable[[Any], None] = lambda params: None
    """params -> nothing; raises MissingError, before any work, if it cannot be computed here."""
    asks: Callable[[Any], Asks] | None = None
    """params -> what it asks of an endpoint about each response; no function if it costs no money. It pays from
    `Tools.budget`."""
    score: str | Callable[[Sequence[Scored], Any, Tools], Sequence[float] | Mapping[str, float]]
    """(examples, params, tools) -> one value per example, NaN where it has none. A metric with examples of its own
    gives a mapping from their names instead."""

    def __post_init__(self) -> None:
        if unknown := self.needs - set(Need):
            msg = f"{self.name} needs {', '.join(sorted(unknown))}; there are: {', '.join(Need)}"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class PairBuilder(Component):
    """Makes preference pairs from the responses there are; the harness drops those that its parameters rule out."""

    params: type[PairParams] = PairParams
    needs: frozenset[Text]
    build: str | Callable[[Sequence[Candidates], Any, Scorers], Iterable[Pair]]
    """(candidates, params, scorers) -> pairs, those of a prompt the best first."""
    scorer: Callable[[Any], str] = lambda params: params.scorer
    """params -> selector of the metric that it orders by or that margins are measured in; empty if none."""
    samples: Callable[[Any], int] = lambda params: 1
    """params -> the fewest samples of a prompt that it can do with."""


@dataclass(frozen=True, kw_only=True)
class Method(Component):
    """A distillation method: what it cites, what it needs, and its objective."""

    params: type[Params] = MethodParams
    paper: str
    """arXiv id ("arXiv:2406.02886") or citation."""
    title: str
    """Title of the paper."""
    equation: str
    """The loss in plain text, as docs/methods.md prints it."""
    access: Access
    objective: TokenObjective | PairObjective
    shared_vocabulary: bool = True
    """Whether teacher logits are compared token by token; False for a method that works across tokenizers."""
    control: bool = False
    """Whether it lacks on purpose what makes a distillation work: shown as a baseline, never ranked, and not among
    `all` methods."""
    step_cost: str = ""
    """What a step costs beyond one forward and backward pass of the student, if anything."""


@dataclass(frozen=True, kw_only=True)
class Launcher(Component):
    """Where stages run."""

    open: Callable[[Any, LaunchOptions], LauncherSession]


@dataclass(frozen=True, kw_only=True)
class Check(Component):
    """A check of `doctor`: one that raises or hangs costs only its own line."""

    run: Callable[[], Iterable[Finding]]
    slow: bool = False
    """It takes longer than one likes to wait, and is run with `--slow` only."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What a check saw, and what to do when it is not well."""

    ok: bool
    message: str
    remedy: str = ""
    """Beside ok=True it makes a warning."""

    @property
    def level(self) -> Literal["ok", "warning", "failed"]:
        """How grave it is."""
        return "failed" if not self.ok else "warning" if self.remedy else "ok"
