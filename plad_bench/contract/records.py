"""The records a plugin registers and the values that pass between a plugin and the harness.

A record is frozen, has a `name`, a one-line `summary`, an integer `version` (raise it whenever the same parameters
would give another result: it is part of every key) and a typed `params` class. A function may be given as the
function itself or as "module:function", which is resolved in the worker; either way it must not need torch to be
imported at the top of its module.
"""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from plad_bench.contract.money import Asks, Price, Purse
from plad_bench.contract.params import MethodParams, PairParams, Params, TaskParams
from plad_bench.contract.protocol import Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from plad_bench.contract.tools import Scorers, Tools


class Access(StrEnum):
    """What a teacher gives, or a method asks of it; later tiers give more."""

    NONE = "none"
    TEXT = "text"
    SCORER = "text + scorer"
    TOKEN_LOGPROBS = "token log-probs"  # noqa: S105
    TOP_K = "top-k"
    LOGITS = "logits"
    HIDDEN = "hidden states"

    @property
    def tier(self) -> int:
        """Position in the order none < text < ... < hidden states."""
        return list(Access).index(self)


class Text(StrEnum):
    """Where the sequences that a loss is averaged over come from."""

    REFERENCE = "reference"
    """The task's references."""
    TEACHER = "teacher"
    """The teacher's responses."""
    SAMPLE = "sample"
    """Responses sampled once from the frozen initialised student."""
    STUDENT = "student"
    """Responses sampled from the student as it is at this step."""
    REPLAY = "replay"
    """Responses that were sampled from the student at an earlier step, with their prompts."""


class Need(StrEnum):
    """What a metric needs beyond prompt, references and response."""

    TEACHER = "teacher"
    """The teacher's responses to the same prompts."""
    CHECKPOINT = "checkpoint"
    """The evaluated model."""
    TEACHER_LOGITS = "teacher-logits"
    """The teacher's model; where a teacher has none to give, the cell does without the metric."""
    REFERENCES = "references"
    """The task's references; where a task has none, the cell does without the metric."""
    SCORES = "scores"
    """The values of the metric that its parameter `scorer` names, for the same responses."""


# --------------------------------------------------------------------------------------------------- components


@dataclass(frozen=True, kw_only=True)
class Component:
    """What all records share."""

    name: str
    summary: str
    version: int = 1
    params: type[Params] = Params


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How a published model is given a prompt."""

    template: str = ""
    """none: as plain text; chat: by its chat template; else the Jinja source of another template. Empty: by its chat
    template if it has one."""
    system: str = ""
    """The system prompt; empty: what the template says of its own."""
    instruction: str = ""
    """What stands before every prompt, or around it where it holds "{prompt}"."""
    date: str = "2024-07-26"
    """The date, YYYY-MM-DD, that a template which asks for today's is given."""
    thinking: Literal["off", "strip", "keep"] = "off"
    """off: a template that knows thinking is told to do without; strip: the model thinks, and what it thinks is no part
    of its answer; keep: it is part of its answer."""

    def instructed(self, prompt: str) -> str:
        """A prompt with its instruction."""
        if "{prompt}" in self.instruction:
            return self.instruction.replace("{prompt}", prompt)
        return f"{self.instruction}\n\n{prompt}" if self.instruction else prompt

    def document(self) -> dict[str, str]:
        """What is not as it usually is, as JSON values."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model in Hugging Face format: a hub id with a revision, or a directory. Safetensors only."""

    id: str
    revision: str | None = None
    """None until a hub resolves it; never a hash that nobody saw."""
    layers: str = ""
    """Which of its layers are kept (`learn/pruning.py`): how many, or their indices joined by "+"; empty for all."""
    prompts: PromptFormat = PromptFormat()
    """How it is given prompts."""
    parameters: float = 0
    """How many it has, where its id does not say; 0 if unknown. Not keyed."""


@dataclass(frozen=True, kw_only=True)
class ScratchModel:
    """A small Llama made from scratch, with a byte-level BPE tokenizer trained on the task's training text."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int


ModelSource: TypeAlias = HubModel | ScratchModel


@dataclass(frozen=True, kw_only=True)
class Teacher(Component):
    """A source of teacher outputs: a model that is run here, or something that is asked for text."""

    provides: frozenset[Access]
    """What decides which methods it can serve."""
    model: Callable[[Any], ModelSource] | None = None
    """params -> the teacher's model; None for a source of text."""
    training: Callable[[Any], Training | None] = lambda params: None
    """params -> how the teacher is fine-tuned on the task's references first; None uses the model as it is."""
    responses: str | Callable[[Sequence[Question], Any, Asking], Iterable[Sequence[Response]]] | None = None
    """(questions, params, asking) -> the responses to each question, in their order. Called in a worker. No response is
    an error, unless `asking.counts["without_response"]` says how many questions have none on purpose."""
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
        if self.model is None and self.provides - {Access.TEXT, Access.SCORER}:
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
class Published(typing.Protocol):
    """A repository of the hub."""

    @property
    def id(self) -> str:
        """org/name."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit; None is the main branch."""


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
    `Tools.purse`."""
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
    step_cost: str = ""
    """What a step costs beyond one forward and backward pass of the student, if anything."""


@dataclass(frozen=True, kw_only=True)
class Term:
    """One average over the tokens of one source of text: of a loss, of a policy gradient, or of their sum."""

    text: Text | Callable[[Any], Text | Mapping[Text, float]]
    """Where its sequences come from. A function of the parameters where they choose; a mapping gives every source
    that training may ever ask for, with its probability as things stand."""
    loss: Callable[[Tensor, Any, Tensor, Any], Tensor] | None = None
    """(student logits [N, V], teacher logits [N, V] or None, labels [N], params) -> loss [N], in nats."""
    advantage: Callable[[Trace, Any], Tensor] | None = None
    """(trace, params) -> A [B, T]: adds -A log q(y) at every sampled token y, A a constant for the gradient."""
    weight: Callable[[Any], float] = lambda params: 1.0
    """params -> what the term is multiplied by; a term of weight 0 asks for no text and costs nothing."""
    draw: Literal["step", "sequence"] = "step"
    """What one draw from a mixture decides: the text of a whole step, or of one of its sequences."""
    sampling: Callable[[Any], Sampling] = lambda params: Sampling()
    """params -> how the student's text is sampled."""

    def sources(self, params: Any) -> Mapping[Text, float]:
        """The sources of text with their probabilities."""
        text = self.text if isinstance(self.text, Text) else self.text(params)
        return {text: 1.0} if isinstance(text, Text) else text


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How responses are sampled from the student, with or without the teacher's hand in it."""

    temperature: float = 1.0
    """Of every distribution that is sampled from; it never enters a loss."""
    teacher_mix: float = 0.0
    """The teacher's share of the distribution that every token is drawn from."""
    verify_top_k: int = 0
    """A token is kept if it is among the teacher's k likeliest; else the teacher draws another. 0 keeps all."""
    draft: int = 1
    """How many tokens the student proposes before the teacher verifies them. Changes the cost and never the text."""
    replay: int = 0
    """How many of the latest responses are kept for Text.REPLAY."""

    def __post_init__(self) -> None:
        if self.teacher_mix and self.verify_top_k:
            msg = "the teacher either mixes its distribution in or verifies, not both"
            raise ValueError(msg)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Log-probabilities of the sampled tokens of B responses, [B, T], constants; 0 off the response."""

    student: Tensor
    teacher: Tensor
    behaviour: Tensor
    """Under the distribution that Sampling's temperature and teacher_mix draw from."""
    mask: Tensor
    """1 on the response, 0 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Parameters that change while training goes on. Losses and mixtures only ever see what `apply` makes of them.

    A state is a mapping of JSON values and travels with the checkpoint; progress runs from 0 to 1.
    """

    apply: Callable[[Any, Mapping[str, Any], float], Any]
    """(params, state, progress) -> the params of the step."""
    start: Callable[[Any], Mapping[str, Any]] = lambda params: {}
    """params -> the state before the first step."""
    update: Callable[[Any, Mapping[str, Any], float, float, float | None], Mapping[str, Any]] = (
        lambda params, state, progress, loss, validation: state
    )
    """(params, state, progress, loss, validation loss) -> the state after a step. The loss is that of the global batch;
    the validation loss is None but after every tenth of the steps, if `validates`."""
    validates: bool = False
    """Whether `update` reads the loss on validation prompts with their references."""


@dataclass(frozen=True, kw_only=True)
class TokenObjective:
    """Sum over terms of the mean over the valid response tokens of the global batch."""

    terms: tuple[Term, ...]
    teacher_logits: bool = True
    schedule: Schedule | None = None

    def active(self, params: Any) -> tuple[Term, ...]:
        """The terms that weigh anything."""
        return tuple(term for term in self.terms if term.weight(params))

    def texts(self, params: Any) -> tuple[Text, ...]:
        """The sources of text, each once."""
        return tuple(dict.fromkeys(text for term in self.active(params) for text in term.sources(params)))


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """Mean over the pairs of the global batch of a loss on sequence log-probabilities."""

    loss: Callable[[PairBatch, Any], Tensor]
    """(batch of B pairs, params) -> loss [B]."""
    reference: bool = False
    """Needs the log-probabilities of the frozen initialised student."""
    scorer: Callable[[Any], str | None] = lambda params: None
    """params -> selector of the metric whose scores of chosen and rejected the loss reads, or None."""


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


# ------------------------------------------------------------------------------------------------------- values


@dataclass(frozen=True, kw_only=True)
class Example:
    """One prompt as a task yields it. The same prompt may come several times, with other references."""

    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any] = field(default_factory=dict)
    """JSON values a metric of this task needs, such as the slots of a meaning."""
    split: str | None = None
    """train, validation or test where the data says so; None leaves that to the harness, which splits by hash. A split
    that no example names is taken from those of train."""


@dataclass(frozen=True, kw_only=True)
class BadRow:
    """A row of a data set that is no example. A task yields it instead; the harness counts and lists it."""

    where: str
    """Such as "train.jsonl, line 7"."""
    reason: str
    """What is wrong with it. Quotes none of its text, for a record may show it."""
    hint: str = field(default="", compare=False)
    """What may help its owner, such as the fields that the row has. Shown to them, and kept out of records."""


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Where the examples of a task came from, for the record."""

    id: str
    revision: str
    """What the hub resolved."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """A file, or a split on the hub, whose rows a task or a recorded teacher reads. A task yields it after its rows."""

    name: str
    rows: int | None
    """How many rows it holds, examples and bad rows together; None for a file that was left out."""
    remark: str = ""
    """What its owner should know of how it was read, such as by what its columns are separated. Quotes none of its
    text."""


Loaded: TypeAlias = Example | BadRow | Origin | Source
"""What a task yields."""


@dataclass(frozen=True, kw_only=True)
class Response:
    """A text, with the token ids it was generated as, if a model of ours made it."""

    text: str
    ids: tuple[int, ...] | None = None
    """Without the end token."""
    tokenizer: str = ""
    """Hash of the tokenizer that the ids belong to."""
    finished: bool = True
    """False when the length limit cut it: no end token is then trained."""
    logprobs: tuple[float, ...] | None = None
    """Of each of `ids`, and of the end token if there is one, before any temperature; None where nobody kept them."""


@dataclass(frozen=True, kw_only=True)
class Question:
    """One prompt that a teacher is asked."""

    id: str
    prompt: str


@dataclass(frozen=True, kw_only=True)
class Asking:
    """How a teacher is to answer, and what it reports to."""

    split: str
    max_new_tokens: int
    temperature: float
    """0 asks for the likeliest text."""
    top_k: int
    """0 where nothing is sampled."""
    seed: int
    samples: int = 1
    """Responses to each question, where it samples."""
    journal: Path
    """Survives a kill. What is written here, a line for each answered question, need not be asked for again."""
    purse: Purse
    same: Callable[[str], str]
    """A prompt -> what it has in common with all that the harness takes for the same prompt."""
    progress: Callable[[int, int], None]
    """Told (answered, all)."""
    counts: dict[str, float]
    cost: dict[str, float]
    """`tokens_generated` and `money` enter the record."""
    notes: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Scored:
    """What a metric sees of one example."""

    id: str
    prompt: str
    references: tuple[str, ...]
    meta: Mapping[str, Any]
    response: str
    teacher: str | None = None
    """The teacher's response, for metrics that need it."""


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """All the responses to one training prompt, by source."""

    id: str
    prompt: str
    responses: Mapping[Text, tuple[Response, ...]]
    """The references, and of the other sources those that the builder needs."""
    meta: Mapping[str, Any] = field(default_factory=dict)
    """The example's."""

    def scored(self, response: str, references: tuple[str, ...] | None = None) -> Scored:
        """What a scorer sees of a response, in place of the task's references others if they are given."""
        if references is None:
            references = tuple(r.text for r in self.responses[Text.REFERENCE])
        return Scored(id=self.id, prompt=self.prompt, references=references, meta=self.meta, response=response)


@dataclass(frozen=True, kw_only=True)
class Pair:
    """A preference: `chosen` is taken to be better than `rejected`."""

    id: str
    """The id of the prompt's example."""
    chosen: Response
    rejected: Response
    margin: float | None = None
    """The lead of `chosen` by the builder's scorer: 0 is a tie, NaN no score; None if it does not order by score."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs as a pair loss sees them. Log-probabilities are summed over response tokens, in nats."""

    chosen_logprob: Tensor
    rejected_logprob: Tensor
    chosen_length: Tensor
    """Response tokens, the end token included."""
    rejected_length: Tensor
    reference_chosen: Tensor | None = None
    """Under the frozen initialised student."""
    reference_rejected: Tensor | None = None
    chosen_score: Tensor | None = None
    rejected_score: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class LaunchOptions:
    """What a launcher is told."""

    workers: int | None
    """CPU slots; None: as many as there is room for."""
    threads: int
    """Of a slot."""
    gpus: tuple[int, ...]
    """Indices of this machine's GPUs to use; empty: CPU."""
    store: Path
    """Where jobs and results lie. Every slot must see it."""


class LauncherSession:
    """An open launcher: a fixed number of slots. A stage runs in one of them or in several, a clean process in each."""

    slots: int
    device: str
    """The device a stage sees: cpu or cuda:0."""

    def start(self, job: Path, log: Path, slots: Sequence[int]) -> StageProcess:
        """Start `plad_bench.execute.worker` on a job file in each slot, as ranks 0, 1, ... of one stage.

        Their output goes to `log`. The stage ends with rank 0, and no rank outlives it; a rank that fails ends it.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop whatever runs."""
        raise NotImplementedError


class StageProcess:
    """A running stage."""

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        raise NotImplementedError

    def kill(self) -> None:
        """End it now."""
        raise NotImplementedError


@dataclass(frozen=True, kw_only=True)
class Event:
    """What an observation hook is told."""

    kind: str
    """run_started, stage_finished, cell_finished or run_finished."""
    name: str
    """The run, stage or cell."""
    status: str
    data: Mapping[str, Any] = field(default_factory=dict)
