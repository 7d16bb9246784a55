"""The loss modules: from a method's formula to a loss and the required logits.

A loss is divided by the count of the whole global batch (tokens for token losses, pairs for pair losses), so the sum
over micro-batches and ranks does not depend on their number. No logits are computed for prompts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from plad_bench.contract.errors import StageError
from plad_bench.contract.objectives import PairBatch, PairObjective, Sampling, Term, Trace
from plad_bench.learn.chunked_logits import Predictor, existing, label_logprobs, parts, rows_at_a_time, summed
from plad_bench.learn.compiled import CompiledLoss
from plad_bench.learn.divergences import cross_entropy, log_mixture, soften
from plad_bench.learn.sequences import Batch
from plad_bench.learn.teacher_cache import Aligned, Events, Whole, aligned


def sequence_logprobs(predictor: Predictor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed log-probability of each response, [B], and its number of tokens, [B]."""
    labels = batch.labels[:, batch.start :][batch.valid]
    tokens = label_logprobs(predictor(batch), labels, predictor.cross_entropy)
    rows = batch.valid.nonzero()[:, 0]
    sums = torch.zeros(len(batch.labels), device=tokens.device, dtype=tokens.dtype).index_add(0, rows, tokens)
    return sums, batch.valid.sum(1)


def token_losses(  # noqa: PLR0917  a loss's own arguments
    term: Term, params: Any, student: Tensor, teacher: Tensor | None, labels: Tensor, advantage: Tensor | None = None
) -> Tensor:
    """The contribution of each of N response tokens to a term's average, [N].

    Args:
        term: the term.
        params: the method's parameters.
        student: logits of the N tokens, row by row, [N, V].
        teacher: the teacher's logits, or None if the objective needs none.
        labels: the tokens, [N].
        advantage: factor of -log q of each token in a policy gradient, [N].

    """
    losses = student.new_zeros(len(labels)) if term.loss is None else term.loss(student, teacher, labels, params)
    expect_shape(losses, labels.shape, "token")
    if advantage is not None:
        losses = losses + advantage * cross_entropy(student, labels)
    return term.weight(params) * losses


@torch.no_grad()
def sampled_logprobs(student: Tensor, teacher: Tensor, labels: Tensor, sampling: Sampling) -> Tensor:
    """Log-probabilities of N sampled tokens under student, teacher, and sampling distribution: [3, N]."""
    log_q, log_p = -cross_entropy(student, labels), -cross_entropy(teacher, labels)
    warm_q, warm_p = (-cross_entropy(soften(z, sampling.temperature), labels) for z in (student, teacher))
    return torch.stack([log_q, log_p, log_mixture(warm_p, warm_q, sampling.teacher_mix)])


@torch.no_grad()
def advantages(term: Term, logprobs: Tensor, valid: Tensor, params: Any) -> Tensor:
    """The term's advantage of each sampled token, [N], from sampled_logprobs; valid [B, T] marks the tokens."""
    assert term.advantage is not None  # noqa: S101  asked for only where there is one
    spread = [values.new_zeros(valid.shape).masked_scatter(valid, values) for values in logprobs]
    student, teacher, behaviour = spread
    trace = Trace(student=student, teacher=teacher, behaviour=behaviour, mask=valid.to(logprobs.dtype))
    return term.advantage(trace, params)[valid]


def expect_shape(losses: Tensor, shape: torch.Size, what: str) -> None:
    """Refuse a method's loss that is averaged already: the loss module averages over the global batch.

    Raises:
        StageError: naming both shapes.
    """
    if losses.shape != shape:
        raise StageError(
            f"the loss gave shape {list(losses.shape)}, not {list(shape)}", f"Return one value per {what}."
        )


class LossModule(nn.Module):
    """The student with a loss, which `forward` computes: the loss of a micro-batch, and values to log."""

    bf16 = False
    """Whether matrix products are computed in bf16."""
    sharded = False
    """Whether several ranks hold a part of it each (learn/sharding.py)."""

    def __init__(self, student: PreTrainedModel, params: Any, *, rows: int = 0) -> None:
        super().__init__()
        self.student = student
        self.params = params  # a schedule may replace them at every step
        self.predictor = Predictor(student, rows)
        """Reads batches with the student."""

    def __call__(self, *given: Any, **named: Any) -> tuple[Tensor, dict[str, float]]:
        """What `forward` returns, computed in the module's precision."""
        with torch.autocast(self.student.device.type, torch.bfloat16) if self.bf16 else nullcontext():
            return super().__call__(*given, **named)

    def compile_parts(self) -> None:
        """Compile the model's layers and what is computed from its logits at the next batch."""
        self.predictor.compile_parts()


class TokenLoss(LossModule):
    """The student with one or more token losses."""

    def __init__(
        self, student: PreTrainedModel, teacher: PreTrainedModel | None, params: Any, *, rows: int = 0
    ) -> None:
        super().__init__(student, params, rows=rows)
        self._compiled: tuple[Any, dict[Term, CompiledLoss]] = (params, {})
        # A predictor is no nn.Module: its model is not trained, moved or saved with the student.
        self.teacher_predictor = None if teacher is None else Predictor(teacher, rows)

    def forward(
        self, term: Term, batch: Batch, total: int, known: Whole | Events | None = None
    ) -> tuple[Tensor, dict[str, float]]:
        """The term's loss of a micro-batch divided by `total`, the tokens of the global batch, and values to log.

        `known` has the precomputed teacher log-probabilities of the batch, if there are any.
        """
        labels = batch.labels[:, batch.start :][batch.valid]
        student, target = self.predictor(batch), known or self._teacher(batch)
        size = student.chunk if target is None else min(student.chunk, target.chunk)

        def meet(part: slice) -> Callable[[slice, Tensor], tuple[Tensor, Tensor | None, Tensor]]:
            """(Rows of a part, their logits) -> logits of student and teacher, and labels, over what both share."""
            words, teacher = labels[part], None if target is None else target.of(part)

            def of_rows(rows: slice, logits: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
                return (logits, None, words[rows]) if teacher is None else teacher.meet(rows, logits, words[rows])

            return of_rows

        @torch.no_grad()
        def advantage() -> Tensor:
            sampling, logprobs = term.sampling(self.params), []
            for part in parts(len(labels), size):
                every, both = student.logits(part), meet(part)
                for rows in parts(len(every), rows_at_a_time(every)):
                    logits, teacher, places = both(rows, every[rows])
                    assert teacher is not None  # noqa: S101  an advantage compares student and teacher
                    logprobs.append(sampled_logprobs(logits, teacher, places, sampling))
            return advantages(term, torch.cat(logprobs, 1), batch.valid, self.params)

        gain, losses = None if term.advantage is None else advantage(), self._losses(term)

        def loss(part: slice, states: Tensor) -> Tensor:
            every, both, of_part = student.head(states), meet(part), None if gain is None else gain[part]

            def of_rows(rows: slice, some: Tensor) -> Tensor:
                return losses(*both(rows, some), None if of_part is None else of_part[rows]).sum()

            return summed(of_rows, existing(every), rows_at_a_time(every))

        report = {} if gain is None else {"advantage": float(gain.sum()) / total}
        return summed(loss, student, size) / total, report

    def compile_parts(self) -> None:
        """Compile the models' layers and the terms' losses at the next batch."""
        for predictor in filter(None, (self.predictor, self.teacher_predictor)):
            predictor.compile_parts()

    def _losses(self, term: Term) -> Callable[..., Tensor]:
        """`token_losses` of a term; it is never compiled for parameters that a schedule has changed."""
        params, known = self._compiled
        losses = functools.partial(token_losses, term, self.params)
        if params is not self.params or not self.predictor.compiles:
            return losses
        return known.setdefault(term, CompiledLoss(losses))

    @property
    def teacher(self) -> nn.Module | None:
        """The teacher's model, if it runs in this process."""
        return self.teacher_predictor.model if self.teacher_predictor else None

    def _teacher(self, batch: Batch) -> Whole | Aligned | None:
        read = self.teacher_predictor
        if read is None:
            return None
        if batch.teacher is None:
            return Whole(read.constant(batch))
        if batch.ends is not None:
            return Whole(read.constant(batch.teacher), batch.ends)
        return Aligned(read.constant(batch.teacher), aligned(batch.valid, batch.teacher.valid))


class PairLoss(LossModule):
    """The student with a pair loss."""

    def __init__(self, student: PreTrainedModel, objective: PairObjective, params: Any, *, rows: int = 0) -> None:
        super().__init__(student, params, rows=rows)
        self.objective = objective

    def forward(self, batch: Batch, scores: Mapping[str, Tensor], total: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of B pairs divided by `total`, and values to log.

        Args:
            batch: 2B sequences: the chosen responses, then the rejected ones.
            scores: further fields of `PairBatch`, [B] each.
            total: pairs in the global batch.

        """
        sums, lengths = sequence_logprobs(self.predictor, batch)
        chosen, rejected = sums.chunk(2)
        chosen_length, rejected_length = lengths.chunk(2)
        pairs = PairBatch(
            chosen_logprob=chosen,
            rejected_logprob=rejected,
            chosen_length=chosen_length,
            rejected_length=rejected_length,
            **scores,
        )
        losses = self.objective.loss(pairs, self.params)
        expect_shape(losses, chosen.shape, "pair")
        loss = losses.sum() / total
        with torch.no_grad():
            report = {
                "logprob_chosen": chosen.sum() / total,
                "logprob_rejected": rejected.sum() / total,
                "accuracy": (chosen > rejected).float().sum() / total,
                "margin": (chosen - rejected).sum() / total,
            }
        return loss, {name: float(value) for name, value in report.items()}
