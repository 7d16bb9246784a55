"""Training objectives of methods: sources of text, losses, sampling and schedules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from plad_bench.contract.enums import Text

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Term:
    """A mean over the tokens of one source of text: of a loss, of a policy gradient, or of their sum."""

    text: Text | Callable[[Any], Text | Mapping[Text, float]]
    """The source of its sequences, or a function of the parameters that returns it. A mapping contains every source
    that training may use, with its current probability."""
    loss: Callable[[Tensor, Any, Tensor, Any], Tensor] | None = None
    """(student logits [N, V], teacher logits [N, V] or None, labels [N], params) -> loss [N], in nats."""
    advantage: Callable[[Trace, Any], Tensor] | None = None
    """(trace, params) -> advantages A [B, T]: adds -A log q(y) at every sampled token y. No gradient flows through
    A."""
    weight: Callable[[Any], float] = lambda params: 1.0
    """params -> weight of the term. A term with weight 0 is skipped and needs no text."""
    draw: Literal["step", "sequence"] = "step"
    """Whether one draw from a mixture determines the source of a whole step or of one sequence."""
    sampling: Callable[[Any], Sampling] = lambda params: Sampling()
    """params -> settings for sampling from the student."""

    def sources(self, params: Any) -> Mapping[Text, float]:
        """The sources of text, with their probabilities."""
        text = self.text if isinstance(self.text, Text) else self.text(params)
        return {text: 1.0} if isinstance(text, Text) else text


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """Settings for sampling responses from the student, optionally with the help of the teacher."""

    temperature: float = 1.0
    """Temperature of all distributions that are sampled from; it does not affect losses."""
    teacher_mix: float = 0.0
    """Weight of the teacher in the mixture distribution from which tokens are drawn."""
    verify_top_k: int = 0
    """A token is accepted if it is among the teacher's k most likely tokens; otherwise the teacher draws a replacement.
    0 accepts all."""
    draft: int = 1
    """Number of tokens that the student proposes before the teacher verifies them. It changes the cost, not the
    text."""
    replay: int = 0
    """Size of the replay buffer (Text.REPLAY), in responses."""

    def __post_init__(self) -> None:
        if self.teacher_mix and self.verify_top_k:
            msg = "teacher_mix and verify_top_k are mutually exclusive"
            raise ValueError(msg)

    @property
    def uses_teacher(self) -> bool:
        """Whether the teacher reads every text while it is sampled."""
        return bool(self.teacher_mix or self.verify_top_k)


@dataclass(frozen=True, kw_only=True)
class Trace:
    """Log-probabilities of the sampled tokens of B responses, [B, T], without gradient; 0 outside the responses."""

    student: Tensor
    teacher: Tensor
    behaviour: Tensor
    """Log-probabilities under the sampling distribution, with `Sampling.temperature` and `Sampling.teacher_mix`."""
    mask: Tensor
    """1 for tokens of the response, 0 elsewhere."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Parameters that change during training. Losses and mixtures receive the parameters that `apply` returns.

    The state is a mapping of JSON values that is saved with checkpoints; progress runs from 0 to 1.
    """

    apply: Callable[[Any, Mapping[str, Any], float], Any]
    """(params, state, progress) -> the parameters of a step."""
    start: Callable[[Any], Mapping[str, Any]] = lambda params: {}
    """params -> the state before the first step."""
    update: Callable[[Any, Mapping[str, Any], float, float, float | None], Mapping[str, Any]] = (
        lambda params, state, progress, loss, validation: state
    )
    """(params, state, progress, loss, validation loss) -> the state after a step. The loss is that of the global batch.
    The validation loss is computed after every tenth of the steps if `validates`, and is None otherwise."""
    validates: bool = False
    """Whether `update` uses the loss on the references of validation prompts."""


@dataclass(frozen=True, kw_only=True)
class TokenObjective:
    """The sum over terms of the mean over the valid response tokens of the global batch."""

    terms: tuple[Term, ...]
    teacher_logits: bool = True
    schedule: Schedule | None = None

    def active(self, params: Any) -> tuple[Term, ...]:
        """The terms with a non-zero weight."""
        return tuple(term for term in self.terms if term.weight(params))

    def texts(self, params: Any) -> tuple[Text, ...]:
        """The sources of text, each once."""
        return tuple(dict.fromkeys(text for term in self.active(params) for text in term.sources(params)))


@dataclass(frozen=True, kw_only=True)
class PairObjective:
    """The mean over the pairs of the global batch of a loss on sequence log-probabilities."""

    loss: Callable[[PairBatch, Any], Tensor]
    """(batch of B pairs, params) -> loss [B]."""
    reference: bool = False
    """Whether the loss needs log-probabilities under the reference model (the student after its SFT initialisation)."""
    scorer: Callable[[Any], str | None] = lambda params: None
    """params -> selector of the metric whose scores of both responses the loss uses, or None."""


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """The inputs of a pair loss for B pairs. Log-probabilities are summed over response tokens, in nats."""

    chosen_logprob: Tensor
    rejected_logprob: Tensor
    chosen_length: Tensor
    """Number of response tokens, including the end token."""
    rejected_length: Tensor
    reference_chosen: Tensor | None = None
    """Log-probability under the reference model."""
    reference_rejected: Tensor | None = None
    chosen_score: Tensor | None = None
    rejected_score: Tensor | None = None
