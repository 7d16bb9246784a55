"""What a method minimises, from the text that it trains on to the formula."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from plad_bench.contract.enums import Text

if TYPE_CHECKING:
    from torch import Tensor


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
