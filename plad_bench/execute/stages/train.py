"""The train stage: a model trained by a method. SFT initialisation, teacher and distillation are all this stage."""

from __future__ import annotations

import functools
import json
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract.enums import Text
from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.jsonlines import read_lines, write_lines
from plad_bench.contract.objectives import PairObjective
from plad_bench.execute.stages.files import (
    CURVE,
    LOGPROBS,
    MODEL,
    PAIRS,
    Prompt,
    read_prompts,
    read_responses,
    response_of,
)
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Encoder, Tokens
    from plad_bench.learn.training import Memory, MicroStep, Step

MOST_REPEATS = 64
"""How often a step may train on the same prompt; more is a slip, and takes for ever."""
_SAMPLED = (Text.STUDENT, Text.REPLAY)
"""Text that training makes itself."""


def run(context: Context) -> None:
    """Write model/, and curve.jsonl with the loss and what else the method reports."""
    from plad_bench.learn import ranks

    with ranks.together(context.rank, context.ranks, context.rendezvous_file, context.device):
        _train(context)


def _train(context: Context) -> None:
    from plad_bench.learn import adapters, models, sequences, training

    spec = context.spec
    method = context.chosen("method")
    model, tokenizer = models.load(context.inputs["model"].path / MODEL, context.device, "float32")
    if context.memory_policy.checkpointing:
        models.checkpoint(model)
    encoder = models.encoder(model, tokenizer, context.counts)
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    if spec["batch"] > MOST_REPEATS * len(prompts):
        raise StageError(
            f"a batch of {spec['batch']} would train on each of the {len(prompts)} training prompts "
            f"{spec['batch'] / len(prompts):.0f} times in one step",
            "Lower --batch, or give more data.",
        )
    encoded = [encoder.prompt(p.prompt) for p in prompts]
    order = sequences.order([len(ids) for ids in encoded], spec["batch"], spec["steps"], spec["seed"])
    adapted = adapters.adapt(model, spec["lora"], spec["seed"]) if "lora" in spec else None
    make = _pair_steps if isinstance(method.component.objective, PairObjective) else _token_steps
    module, step_at, memory = make(context, model, method, Corpus(prompts, encoded, encoder), order)
    result = training.train(
        module,
        step_at,
        steps=spec["steps"],
        lr=spec["lr"],
        seed=spec["seed"],
        precision=spec["precision"],
        device=context.device,
        checkpoint=context.partial / "checkpoint.pt",
        progress=context.progress,
        memory=memory,
        memory_policy=context.memory_policy,
        recompute=functools.partial(models.checkpoint, model),
    )
    if context.rank:
        return
    context.cost["tokens_trained"] = result.tokens
    context.cost["tokens_read"] = result.read
    context.cost["step_milliseconds"] = statistics.median(result.milliseconds)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)
    models.save(adapters.merge(adapted) if adapted else model, tokenizer, context.out / MODEL)
    write_lines(context.out / CURVE, result.curve)


class Corpus:
    """The training prompts with their token ids, in one order for all methods."""

    def __init__(self, prompts: Sequence[Prompt], encoded: Sequence[list[int]], encoder: Encoder) -> None:
        self.prompts, self.encoded, self.encoder = prompts, encoded, encoder
        self.teachers: Encoder | None = None
        """The teacher's encoder, where it spells text with other tokens or is given prompts in another way."""

    def responses(self, context: Context, text: Text) -> list[list[Tokens]]:
        """The sequences each prompt can be trained on from a source of text; those without a token are left out."""
        if text is Text.REFERENCE:
            by_id = {p.id: tuple(Response(text=r) for r in p.references) for p in self.prompts}
            if missing := [id_ for id_, references in by_id.items() if not references]:
                raise StageError(f"{len(missing)} training prompts have no reference, among them {missing[0]}")
        else:
            role = "sample" if text is Text.SAMPLE else "teach"
            by_id = read_responses(context.inputs[role], self.prompts)
            by_id = _shuffled(by_id, [p.id for p in self.prompts]) if text is Text.SHUFFLED else by_id
        every = [
            [self._spelled(p.prompt, ids, response) for response in by_id[p.id]]
            for p, ids in zip(self.prompts, self.encoded, strict=True)
        ]
        some = [[sequence for sequence in several if not sequence.empty] for several in every]
        _count(context, "empty_responses", sum(map(len, every)) - sum(map(len, some)))
        return some

    def validation(self, context: Context) -> list[Tokens]:
        """A few validation prompts with a reference each, always the same."""
        from plad_bench.learn.steps import VALIDATION_PROMPTS

        limit = min(VALIDATION_PROMPTS, context.spec.get("limit") or VALIDATION_PROMPTS)
        prompts = [p for p in read_prompts(context.inputs["data"], "validation", limit) if p.references]
        if not prompts:
            raise StageError("no validation prompt has a reference to take the validation loss on")
        return [self._spelled(p.prompt, self.encoder.prompt(p.prompt), Response(text=p.references[0])) for p in prompts]

    def pairs(self, context: Context) -> list[dict[str, Any]]:
        """Encoded pairs, in the order of their file, with their scores and frozen-reference log-probabilities."""
        rows = list(read_lines(context.inputs["pairs"].path / PAIRS))
        if "reference" in context.inputs:
            logprobs = json.loads((context.inputs["reference"].path / LOGPROBS).read_text())
            rows = [row | logprob for row, logprob in zip(rows, logprobs, strict=True)]
        prompts = {p.id: ids for p, ids in zip(self.prompts, self.encoded, strict=True)}
        sides = ("chosen", "rejected")
        return [row | {s: self.sequence(prompts[row["id"]], response_of(row[s])) for s in sides} for row in rows]

    def _spelled(self, text: str, prompt: list[int], response: Response) -> Tokens:
        """A prompt and a response to it, and as the teacher spells them if that is otherwise."""
        if self.teachers is None:
            return self.sequence(prompt, response)
        its_prompt = self.teachers.prompt(text)
        if self.same_tokens:
            return self.encoder.beside(prompt, self.encoder.response(response), self.teachers, its_prompt)
        mine = self.sequence(prompt, response)
        return replace(mine, teacher=self.teachers.sequence(its_prompt, self.teachers.response(response)))

    @property
    def same_tokens(self) -> bool:
        """Whether the teacher has the student's tokens, and is only given prompts in another way."""
        return self.teachers is not None and self.teachers.hash == self.encoder.hash

    def sampled(self, index: int, response: list[int]) -> Tokens:
        """A training prompt and a response that the student has sampled."""
        from plad_bench.learn.sequences import Tokens

        prompt = self.encoded[index]
        if self.teachers is None or self.its_prompts is None:
            return Tokens(prompt, response)
        return self.encoder.beside(prompt, response, self.teachers, self.its_prompts[tuple(prompt)])

    @functools.cached_property
    def its_prompts(self) -> dict[tuple[int, ...], list[int]] | None:
        """The training prompts as a teacher of the same tokens is given them, by the student's; None if as these."""
        if self.teachers is None or not self.same_tokens:
            return None
        both = zip(self.encoded, self.prompts, strict=True)
        return {tuple(own): self.teachers.prompt(prompt.prompt) for own, prompt in both}

    @property
    def ends(self) -> tuple[int, int] | None:
        """What ends a response of the student's and of a teacher of the same tokens that is given other prompts."""
        return (self.encoder.end, self.teachers.end) if self.teachers is not None and self.same_tokens else None

    def sequence(self, prompt: list[int], response: Response) -> Tokens:
        """A prompt and a response to it."""
        return self.encoder.sequence(prompt, self.encoder.response(response))


def _token_steps(
    context: Context, model: Any, method: Any, corpus: Corpus, order: list[list[int]]
) -> tuple[Any, Callable[[int], Step], Memory]:
    from plad_bench.learn import models
    from plad_bench.learn.objectives import TokenLoss
    from plad_bench.learn.rollouts import Rollouts
    from plad_bench.learn.steps import TokenSteps
    from plad_bench.learn.teacher_cache import Signals

    spec, objective, tokenizer = context.spec, method.component.objective, corpus.encoder.tokenizer
    texts, teacher, rollouts = objective.texts(method.params), None, None
    roles = [role for text in texts if (role := f"signals-{text}") in context.inputs]
    signals = [Signals(context.inputs[role].path, corpus.encoder.hash) for role in roles]
    if "teacher" in context.inputs and objective.teacher_logits:
        path = context.inputs["teacher"].path / MODEL
        teacher, its_tokenizer = models.load(path, context.device, spec["precision"])
        theirs = models.encoder(teacher, its_tokenizer, context.counts)
        if theirs.hash != corpus.encoder.hash:
            if method.component.shared_vocabulary:
                raise StageError(f"{method.label} compares logits, but student and teacher have different tokenizers")
            corpus.teachers = theirs
        elif not corpus.encoder.prompts_like(theirs):
            corpus.teachers = replace(theirs, counts={})  # the texts are the student's, and counted there
        teacher.requires_grad_(False)  # noqa: FBT003  torch's own signature
    elif roles:
        corpus.teachers = _reader_of(context.inputs[roles[0]].path, signals[0].context, corpus.encoder)
    if corpus.teachers is None:  # sequences are cut to what both can read, and counted where they are
        read = [models.context_length(teacher)] if teacher is not None else []
        corpus.encoder.context = min(
            [corpus.encoder.context, *read, *(signal.context for signal in signals if signal.context)]
        )
    if Text.STUDENT in texts:
        rollouts = Rollouts(
            model,
            teacher,
            tokenizer,
            max_new_tokens=spec["max_new_tokens"],
            seed=spec["seed"],
            precision=spec["precision"],
            cost=context.cost,
            memory_policy=context.memory_policy,
            its_prompts=corpus.its_prompts,
            ends=corpus.ends,
        )
        rollouts.check(corpus.encoded)
    # Parameters that follow a schedule would be compiled anew at every step.
    compiled = "compile" in spec and objective.schedule is None
    module = TokenLoss(model, teacher, method.params, compiled=compiled)
    steps = TokenSteps(
        objective,
        method.params,
        module,
        examples=[p.id for p in corpus.prompts],
        prompts=corpus.encoded,
        fixed={text: corpus.responses(context, text) for text in texts if text not in _SAMPLED},
        order=order,
        rollouts=rollouts,
        validation=corpus.validation(context) if objective.schedule and objective.schedule.validates else (),
        cost=context.cost,
        seed=spec["seed"],
        pad=tokenizer.pad_token_id,
        device=context.device,
        signals=signals,
        memory_policy=context.memory_policy,
        spell=corpus.sampled,
    )
    return module, steps.at, steps


def _reader_of(signals: Path, reads: int, encoder: Encoder) -> Encoder | None:
    """The encoder of the teacher that has said what it thinks of text, where that is given prompts in another way."""
    from plad_bench.learn import models
    from plad_bench.learn.teacher_cache import TOKENIZER

    if not (signals / TOKENIZER).is_dir():
        return None
    tokenizer = models.load_tokenizer(signals / TOKENIZER, "the teacher")
    theirs = replace(encoder, tokenizer=tokenizer, context=reads or encoder.context, counts={})
    return None if encoder.prompts_like(theirs) else theirs


def _pair_steps(
    context: Context, model: Any, method: Any, corpus: Corpus, order: list[list[int]]
) -> tuple[Any, Callable[[int], Step], None]:
    from plad_bench.learn import ranks
    from plad_bench.learn.objectives import PairLoss, PairScores, stack
    from plad_bench.learn.sequences import collate, micro_batches, pick
    from plad_bench.learn.training import Step

    every = corpus.pairs(context)
    whole = [row for row in every if not (row["chosen"].empty or row["rejected"].empty)]
    _count(context, "empty_pairs", len(every) - len(whole))
    if not whole:
        raise StageError(
            f"a side of each of the {len(every)} pairs is empty", "Look at the teacher's responses and length limit."
        )
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in whole:
        pairs.setdefault(row["id"], []).append(row)
    seed, pad = context.spec["seed"], corpus.encoder.tokenizer.pad_token_id

    def step_at(number: int) -> Step:
        rows = []
        for i in order[number]:
            available = pairs.get(corpus.prompts[i].id)
            if available:  # a prompt whose pair was dropped keeps its place in the order, and trains nothing
                rows.append(available[pick(len(available), seed, number, corpus.prompts[i].id)])
        both = [row[side] for row in rows for side in ("chosen", "rejected")]
        tokens, read = sum(len(s.response) for s in both), sum(map(len, both))
        return Step(functools.partial(micro, rows), ranks.even(0, len(rows)) if rows else 0, tokens, read=read)

    def micro(rows: Sequence[dict[str, Any]], size: int) -> list[MicroStep]:
        steps: list[MicroStep] = []
        for indices in micro_batches([r["chosen"] for r in rows], ranks.even(size, len(rows))):
            group = [rows[i] for i in indices]
            batch = collate([r["chosen"] for r in group] + [r["rejected"] for r in group], pad, context.device)
            scores = PairScores(**{name: stack(group, name, context.device) for name in vars(PairScores())})
            steps.append(functools.partial(_call, batch=batch, scores=scores, total=len(rows)))
        return steps

    return PairLoss(model, method.component.objective, method.params), step_at, None


def _shuffled(by_id: Mapping[str, tuple[Response, ...]], ids: Sequence[str]) -> dict[str, tuple[Response, ...]]:
    """Every prompt with the responses to the next one; ids are hashes, so that their order says nothing of prompts."""
    if len(ids) < 2:
        raise StageError("a single training prompt has no other one's response", "Give more data, or raise --limit.")
    order = sorted(ids)
    return {id_: by_id[other] for id_, other in zip(order, [*order[1:], order[0]], strict=True)}


def _count(context: Context, name: str, number: int) -> None:
    """Count what was left out, if anything was."""
    if number:
        context.counts[name] = context.counts.get(name, 0) + number


def _call(module: Any, **arguments: Any) -> Any:
    return module(**arguments)
