"""Helpers for audits and tests: evaluate a method's loss on given tensors (docs/auditing.md), or query a teacher.

`token_loss` and `pair_loss` return the scalar that training would minimise on the tensors. It is differentiable and has
the dtype of the inputs. `tiny_models` makes two models whose logits such tensors can be.
"""

from __future__ import annotations

import contextlib
import functools
import io
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from plad_bench.contract.components import Method, Teacher
from plad_bench.contract.errors import StageError, UsageError
from plad_bench.contract.examples import Response
from plad_bench.contract.money import Budget
from plad_bench.contract.objectives import PairBatch, PairObjective, TokenObjective
from plad_bench.contract.params import TaskParams
from plad_bench.contract.registry import Registry, resolve
from plad_bench.contract.requests import Request, RequestContext

if TYPE_CHECKING:
    from plad_bench.contract.models import ScratchModel
    from plad_bench.learn.evaluation import Evaluated

IGNORED = -100
"""Label of positions outside the response."""


def token_loss(
    name: str | Method, student_logits: Tensor, teacher_logits: Tensor | None, labels: Tensor, **params: Any
) -> Tensor:
    """The loss of a token method, averaged over the valid labels; 0 if there are none.

    Logits and labels are aligned: logits[b, t] predicts labels[b, t]. If the terms of a method use different sources of
    text, all of them are evaluated on these tensors and added. The parameters replace the decisions of rollouts and
    schedules. A policy gradient treats the labels as tokens that were sampled from these logits.

    Args:
        name: a registered method's name, or a `Method` record.
        student_logits: float [B, T, V], with gradient.
        teacher_logits: float [B, T, V], without gradient; ignored by methods that need no logits.
        labels: int [B, T], -100 outside the response.
        params: the method's parameters, as on the command line.

    Raises:
        UsageError: for an unknown method or parameter, a value out of range, a pair method, or incompatible shapes.

    """
    from plad_bench.learn.objectives import advantages, sampled_logprobs, token_losses

    method, settings = _configured(name, params)
    objective = method.objective
    if not isinstance(objective, TokenObjective):
        raise UsageError(f"{method.name} is a pair method", "Use pair_loss.")
    if student_logits.shape[:-1] != labels.shape:
        raise UsageError(f"student_logits {_shape(student_logits)} do not match labels {_shape(labels)}", _SHAPES)
    valid = labels != IGNORED
    student, teacher = student_logits[valid], None
    if objective.teacher_logits:
        if teacher_logits is None or teacher_logits.shape[:-1] != labels.shape:
            raise UsageError(f"{method.name} needs teacher_logits that match labels {_shape(labels)}", _SHAPES)
        if method.shared_vocabulary and teacher_logits.shape != student_logits.shape:
            raise UsageError(
                f"{method.name} compares logits token by token, but {_shape(student_logits)} and "
                f"{_shape(teacher_logits)} differ",
                "Restrict both to their common tokens.",
            )
        teacher = teacher_logits.detach()[valid]
    total: Any = 0
    for term in objective.active(settings):
        advantage = None
        if term.advantage is not None and teacher is not None:
            logprobs = sampled_logprobs(student, teacher, labels[valid], term.sampling(settings))
            advantage = advantages(term, logprobs, valid, settings)
        total += token_losses(term, settings, student, teacher, labels[valid], advantage).sum()
    return (total / valid.sum().clamp_min(1)).to(student_logits.dtype)


def pair_loss(  # noqa: PLR0917  the tensors, in the usual order
    name: str | Method,
    chosen_logprob: Tensor,
    rejected_logprob: Tensor,
    chosen_length: Tensor,
    rejected_length: Tensor,
    reference_chosen: Tensor | None = None,
    reference_rejected: Tensor | None = None,
    chosen_score: Tensor | None = None,
    rejected_score: Tensor | None = None,
    **params: Any,
) -> Tensor:
    """The loss of a pair method, averaged over the pairs. Tensors that the method does not need are ignored.

    Args:
        name: a registered method's name, or a `Method` record.
        chosen_logprob: log q(y+), summed over response tokens, float [B].
        rejected_logprob: log q(y-), summed, float [B].
        chosen_length: response tokens of y+, int [B].
        rejected_length: response tokens of y-, int [B].
        reference_chosen: log q0(y+) under the reference model, float [B].
        reference_rejected: log q0(y-), float [B].
        chosen_score: score of y+, float [B]; used instead of the parameter `scorer`.
        rejected_score: score of y-, float [B].
        params: the method's parameters, as on the command line.

    Raises:
        UsageError: for an unknown method or parameter, a value out of range, a token method, different shapes, or a
            missing tensor.

    """
    method, settings = _configured(name, params)
    objective = method.objective
    if not isinstance(objective, PairObjective):
        raise UsageError(f"{method.name} is a token method", "Use token_loss.")
    tensors = {
        "chosen_logprob": chosen_logprob,
        "rejected_logprob": rejected_logprob,
        "chosen_length": chosen_length,
        "rejected_length": rejected_length,
        "reference_chosen": reference_chosen,
        "reference_rejected": reference_rejected,
        "chosen_score": chosen_score,
        "rejected_score": rejected_score,
    }
    needed = [*_REFERENCES] if objective.reference else []
    needed += _SCORES if objective.scorer(settings) else []
    for role, tensor in tensors.items():
        if tensor is None and role in needed:
            raise UsageError(f"{method.name} needs {role}", f"Pass {' and '.join(needed)}, float [B].")
        if tensor is not None and tensor.shape != chosen_logprob.shape:
            raise UsageError(f"{role} {_shape(tensor)} does not match chosen_logprob {_shape(chosen_logprob)}")
    constants = {role: tensors[role] for role in (*_REFERENCES, *_SCORES)}
    batch = PairBatch(
        chosen_logprob=chosen_logprob,
        rejected_logprob=rejected_logprob,
        chosen_length=chosen_length,
        rejected_length=rejected_length,
        **{role: None if tensor is None else tensor.detach() for role, tensor in constants.items()},
    )
    return objective.loss(batch, settings).mean().to(chosen_logprob.dtype)


def answers(
    name: str | Teacher, prompts: Sequence[str], *, max_new_tokens: int = 64, samples: int = 1, **params: Any
) -> list[list[str]]:
    """The responses of a teacher to each prompt, decoded greedily, or sampled at temperature 1 if `samples` > 1.

    Args:
        name: the name of a registered teacher without a local model, or a `Teacher` record.
        prompts: the prompts.
        max_new_tokens: the maximum length of a response.
        samples: number of responses per prompt.
        params: the teacher's parameters, as on the command line.

    Raises:
        UsageError: for an unknown teacher or parameter, a value out of range, or a teacher with a local model.
        MissingError: if the teacher is unavailable.
        StageError: if the number of answers differs from the number of prompts.
    """
    from plad_bench.execute.stages.data import signature

    teacher = name if isinstance(name, Teacher) else _registry().get("teacher", name)
    if teacher.responses is None:
        raise UsageError(f"{teacher.name} has a local model and cannot be queried", "Try it with `plad-bench run`.")
    settings = Registry.configure(teacher, params)
    teacher.require(settings)
    with tempfile.TemporaryDirectory() as place:
        context = RequestContext(
            split="train",
            max_new_tokens=max_new_tokens,
            temperature=0.0 if samples == 1 else 1.0,
            top_k=0,
            seed=0,
            samples=samples,
            response_cache=Path(place) / "response_cache",
            budget=Budget(),
            same=signature,
            progress=lambda done, total: None,
            counts={},
            cost={},
            notes={},
        )
        requests = [Request(id=f"request-{n}", prompt=prompt) for n, prompt in enumerate(prompts)]
        given = [[r.text for r in found] for found in resolve(teacher.responses)(requests, settings, context)]
    if len(given) != len(prompts):
        raise StageError(f"teacher {teacher.name} answered {len(given)} of {len(prompts)} prompts")
    return given


@dataclass(frozen=True)
class TinyModels:
    """A student and a teacher with random weights and the same tokenizer, on the CPU, in float32."""

    student: Evaluated
    teacher: Evaluated
    """Both are a `plad_bench.LanguageModel`, as metrics receive it."""

    def batch(self, texts: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor, Tensor]:
        """The inputs of `token_loss` for B texts: logits [B, T, V] of student and teacher, and labels [B, T].

        The logits of the student have a gradient.

        Args:
            texts: (prompt, response) pairs.
        """
        from plad_bench.learn.sequences import collate

        encoder = self.student.encoder
        items = [encoder.sequence(encoder.prompt(p), encoder.response(Response(text=r))) for p, r in texts]
        batch = collate(items, self.student.tokenizer.pad_token_id)
        student, teacher = (
            m.model(input_ids=batch.input_ids, attention_mask=batch.attention_mask).logits
            for m in (self.student, self.teacher)
        )
        return student, teacher.detach(), batch.labels


def tiny_models(seed: int = 0) -> TinyModels:
    """The models of `plad_bench.tiny` with random weights, and a tokenizer trained on its texts."""
    from plad_bench import tiny
    from plad_bench.execute.stages.tokenizer import trained
    from plad_bench.learn import models
    from plad_bench.learn.evaluation import Evaluated

    texts = [text for e in tiny.examples(TaskParams()) for text in (f"{e.prompt}\n", *e.references)]

    def made(place: Path, source: ScratchModel, seed: int) -> Evaluated:
        trained(texts, source.vocabulary).save_pretrained(place / "tokenizer")
        model, tokenizer = models.from_scratch(place / "tokenizer", {**asdict(source), "seed": seed})
        models.save(model, tokenizer, place / "model")
        return Evaluated(place / "model", "cpu", "float32", tiny.TASK.protocol.max_new_tokens, {})

    with tempfile.TemporaryDirectory() as place, contextlib.redirect_stderr(io.StringIO()):  # progress bars
        return TinyModels(made(Path(place, "s"), tiny.SMALL, seed), made(Path(place, "t"), tiny.LARGE, seed + 1))


_SHAPES = "Logits are [B, T, V], and labels are [B, T]."
_REFERENCES = ("reference_chosen", "reference_rejected")
_SCORES = ("chosen_score", "rejected_score")


@functools.cache
def _registry() -> Registry:
    return Registry.load()


def _configured(name: str | Method, params: dict[str, Any]) -> tuple[Method, Any]:
    method = name if isinstance(name, Method) else _registry().get("method", name)
    return method, Registry.configure(method, params)


def _shape(tensor: Tensor) -> str:
    return str(list(tensor.shape))
