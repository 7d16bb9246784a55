"""From a method's formula to a number: which logits it needs, over which tokens, and how they are averaged.

A loss is divided by the count of the whole global batch (tokens for token losses, pairs for pair losses), so the sum
over micro-batches and ranks is the same whatever their number. No logits are made for prompts.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PreTrainedModel

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import PairBatch, PairObjective, Sampling, Term, Trace
from plad_bench.learn.divergences import cross_entropy, log_mixture, soften
from plad_bench.learn.sequences import Batch


@dataclass(frozen=True)
class PairScores:
    """What is known of B pairs beforehand: frozen-reference log-probabilities and scores, each [B] or None."""

    reference_chosen: Tensor | None = None
    reference_rejected: Tensor | None = None
    chosen_score: Tensor | None = None
    rejected_score: Tensor | None = None


def response_logits(model: nn.Module, batch: Batch) -> Tensor:
    """Logits of the N response predictions of a batch, row by row: [N, V]."""
    extra: dict[str, Any] = {}
    if "logits_to_keep" in inspect.signature(_forward_of(model)).parameters:
        extra["logits_to_keep"] = batch.input_ids.shape[1] - batch.start
    logits = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **extra).logits
    return logits[:, -batch.valid.shape[1] :][batch.valid]


def sequence_logprobs(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor]:
    """Summed log-probability of each response, [B], and its number of tokens, [B]."""
    logits = response_logits(model, batch)
    labels = batch.labels[:, batch.start :][batch.valid]
    tokens = -functional.cross_entropy(logits.float(), labels, reduction="none")
    rows = batch.valid.nonzero()[:, 0]
    sums = torch.zeros(len(batch.labels), device=tokens.device, dtype=tokens.dtype).index_add(0, rows, tokens)
    return sums, batch.valid.sum(1)


def term_losses(  # noqa: PLR0917  a loss's own arguments, and where its tokens are
    term: Term, student: Tensor, teacher: Tensor | None, labels: Tensor, valid: Tensor, params: Any
) -> tuple[Tensor, dict[str, Tensor]]:
    """What each of N response tokens adds to a term's average, [N], and sums over them worth logging.

    Args:
        term: the term.
        student: logits of the N tokens, row by row, [N, V].
        teacher: the teacher's, or None where the objective needs none.
        labels: the tokens, [N].
        valid: where they are in the batch: [B, T] with N times True.
        params: the method's parameters.

    """
    losses = student.new_zeros(len(labels)) if term.loss is None else term.loss(student, teacher, labels, params)
    expect_shape(losses, labels.shape, "token")
    report = {}
    if term.advantage is not None:
        surprise = cross_entropy(student, labels)
        trace = _trace(student.detach(), teacher, labels, valid, term.sampling(params))
        advantage = term.advantage(trace, params)[valid].detach()
        losses = losses + advantage * surprise
        report["advantage"] = advantage.sum()
    return term.weight(params) * losses, report


def expect_shape(losses: Tensor, shape: torch.Size, what: str) -> None:
    """Refuse the result of a method's loss that has averaged already: the engine does that, over the global batch.

    Raises:
        StageError: naming both shapes.
    """
    if losses.shape != shape:
        raise StageError(
            f"the loss gave shape {list(losses.shape)}, not {list(shape)}", f"Return one value per {what}."
        )


def _trace(student: Tensor, teacher: Tensor | None, labels: Tensor, valid: Tensor, sampling: Sampling) -> Trace:
    assert teacher is not None  # noqa: S101  an advantage compares student and teacher
    log_q, log_p = -cross_entropy(student, labels), -cross_entropy(teacher, labels)
    warm_q, warm_p = (-cross_entropy(soften(z, sampling.temperature), labels) for z in (student, teacher))
    behaviour = log_mixture(warm_p, warm_q, sampling.teacher_mix)

    def spread(values: Tensor) -> Tensor:
        return values.new_zeros(valid.shape).masked_scatter(valid, values)

    return Trace(student=spread(log_q), teacher=spread(log_p), behaviour=spread(behaviour), mask=valid.to(log_q.dtype))


class TokenLoss(nn.Module):
    """The student with one or more token losses. Its forward is what data parallelism wraps."""

    def __init__(self, student: PreTrainedModel, teacher: PreTrainedModel | None, params: Any) -> None:
        super().__init__()
        self.student = student
        self.params = params  # a schedule may replace them from step to step
        # Hidden from nn.Module: the teacher is neither trained, moved, saved nor put in train mode with the student.
        self._frozen = (teacher,)

    def forward(self, term: Term, batch: Batch, total: int) -> tuple[Tensor, dict[str, float]]:
        """The term's loss of a micro-batch over `total` tokens of the global batch, and what to log of it."""
        labels = batch.labels[:, batch.start :][batch.valid]
        student = response_logits(self.student, batch)
        teacher = self._teacher_logits(batch)
        if teacher is not None:
            # Vocabularies that differ only in padding share a beginning; what lies beyond it is never a label.
            shared = min(student.shape[-1], teacher.shape[-1])
            student, teacher = student[:, :shared], teacher[:, :shared]
        losses, report = term_losses(term, student, teacher, labels, batch.valid, self.params)
        return losses.sum() / total, {name: float(value) / total for name, value in report.items()}

    @torch.no_grad()
    def _teacher_logits(self, batch: Batch) -> Tensor | None:
        (teacher,) = self._frozen
        return None if teacher is None else response_logits(teacher, batch)


class PairLoss(nn.Module):
    """The student with a pair loss."""

    def __init__(self, student: PreTrainedModel, objective: PairObjective, params: Any) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.params = params

    def forward(self, batch: Batch, scores: PairScores, total: int) -> tuple[Tensor, dict[str, float]]:
        """The loss of B pairs (rows 0..B-1 chosen, B..2B-1 rejected) over `total` pairs, and what to log of them."""
        sums, lengths = sequence_logprobs(self.student, batch)
        chosen, rejected = sums.chunk(2)
        chosen_length, rejected_length = lengths.chunk(2)
        pairs = PairBatch(
            chosen_logprob=chosen,
            rejected_logprob=rejected,
            chosen_length=chosen_length,
            rejected_length=rejected_length,
            **vars(scores),
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


def stack(rows: Sequence[Mapping[str, float]], name: str, device: str) -> Tensor | None:
    """A column of pair facts as a tensor, [B]; None if the rows do not have it."""
    return torch.tensor([row[name] for row in rows], device=device) if name in rows[0] else None


def _forward_of(model: nn.Module) -> Any:
    return getattr(model, "module", model).forward
