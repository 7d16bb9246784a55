"""The train stage: trains a model by a method. SFT initialisation, teacher and distillation are all this stage."""

from __future__ import annotations

import contextlib
import functools
import math
import statistics
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import evaluation_points
from plad_bench.contract.enums import FIXED, Text
from plad_bench.contract.errors import SkippedError, StageError
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.objectives import PairObjective
from plad_bench.execute.stages.corpus import Corpus, count
from plad_bench.execute.stages.files import CURVE, MODEL, read_prompts, scored
from plad_bench.execute.stages.score import scorer_of
from plad_bench.execute.worker import Context
from plad_bench.plan import expenses

if TYPE_CHECKING:
    from plad_bench.learn.length import Length, Result
    from plad_bench.learn.points import Points
    from plad_bench.learn.rollouts import Sampler
    from plad_bench.learn.selection import Selection
    from plad_bench.learn.sequences import Encoder, Order
    from plad_bench.learn.steps import PairSteps, TokenSteps
    from plad_bench.learn.training import Steps

MOST_REPEATS = 64
"""Maximum number of times that a step trains on the same prompt. More is a mistake, and takes very long."""


def run(context: Context) -> None:
    """Write model/, at-PERCENT/model/ for points of the training, and curve.jsonl with what each step reports."""
    from plad_bench.learn import ranks

    with ranks.together(context.rank, context.ranks, context.rendezvous_file, context.device):
        _train(context)


def _train(context: Context) -> None:
    from plad_bench.execute.stages import memory_estimate
    from plad_bench.learn import adapters, models, sequences, training

    spec, length = context.spec, _length(context)
    method = context.chosen("method")
    place = "cpu" if context.shard else context.device  # parts of a sharded model move to the devices later
    model, tokenizer = models.load(context.inputs["model"].path / MODEL, place, "float32")
    if context.memory_policy.checkpointing:
        models.checkpoint(model)
    encoder = models.encoder(model, tokenizer, context.counts)
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    if spec["batch"] > MOST_REPEATS * len(prompts):
        raise StageError(
            f"a global batch of {spec['batch']} would train on each of the {len(prompts)} training prompts "
            f"{spec['batch'] / len(prompts):.0f} times in one step",
            "Lower --batch, or provide more data.",
        )
    encoded = [encoder.prompt(p.prompt) for p in prompts]
    order = sequences.Order([len(ids) for ids in encoded], spec["batch"], spec["seed"])
    adapted = adapters.adapt(model, spec["lora"], spec["seed"]) if "lora" in spec else None
    make = _pairs if isinstance(method.component.objective, PairObjective) else _tokens
    module, data = make(context, model, method, Corpus(prompts, encoded, encoder), order)
    selection = _selection(context, model, tokenizer, encoder, data) if "select" in spec else None
    points = _points(context, model)
    if memory_estimate.choose(context, model, getattr(module, "teacher", None), data):
        module.compile_parts()
    context.usage.loaded()
    with contextlib.closing(data):
        result = training.train(
            module,
            selection or data,
            length=length,
            lr=spec["lr"],
            seed=spec["seed"],
            precision=spec["precision"],
            optimizer_name=spec.get("optimizer", "adamw"),
            device=context.device,
            checkpoint=context.partial / "checkpoint.pt",
            progress=context.progress,
            memory_policy=context.memory_policy,
            recompute=functools.partial(models.checkpoint, model),
            passed=None if points is None else points.passed,
            shard=context.shard,
        )
    if context.shard:
        model, adapted = _gathered(context, model)
    if context.rank:
        return
    context.cost |= {"tokens_trained": result.tokens, "tokens_read": result.read}
    if "budget" in spec or points is not None:
        context.cost |= {"steps": result.steps, "update_device_seconds": round(result.seconds, 3)}
    context.cost["step_milliseconds"] = statistics.median(result.milliseconds)
    of_engine = context.cost.get("peak_memory_bytes", 0)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device) + of_engine
    if selection is not None:
        selection.give_best(model)
        context.notes["selected"] = _selected(context, selection)
    models.save(adapters.merge(adapted) if adapted else model, tokenizer, context.out / MODEL)
    write_lines(context.out / CURVE, result.curve)
    if points is not None:
        context.notes["points"] = {str(percent): points.cost_at(percent) for percent in points.percents}
        _write_points(context, points, tokenizer)


def _gathered(context: Context, sharded: Any) -> tuple[Any, Any]:
    """The whole model, and the object that merges its adapters if there are any, on the first rank."""
    from plad_bench.learn import sharding

    model, adapted = (None, None) if context.rank else _untrained(context)
    sharding.gather(sharded, model)
    return model, adapted


def _untrained(context: Context, device: str = "cpu", precision: str = "float32") -> tuple[Any, Any]:
    """The model as it was before the training, and the object that merges its adapters if there are any."""
    from plad_bench.learn import adapters, models

    spec = context.spec
    model, _ = models.load(context.inputs["model"].path / MODEL, device, precision)
    return model, adapters.adapt(model, spec["lora"], spec["seed"]) if "lora" in spec else None


def _points(context: Context, model: Any) -> Points | None:
    """What keeps the weights at points of the training; None if none are asked for."""
    from plad_bench.learn.points import Points

    if "evaluate_at" not in context.spec:
        return None

    def cost(done: Result) -> dict[str, float]:
        names = ("tokens_generated", "teacher_tokens_scored", "teacher_tokens_cached")
        counted = {name: context.cost[name] for name in names if name in context.cost}
        steps = {"steps": done.steps, "update_device_seconds": round(done.seconds, 3)}
        return {"tokens_trained": done.tokens, "tokens_read": done.read, **steps, **counted}

    return Points(context.spec["evaluate_at"], model, cost, context.partial)


def _write_points(context: Context, points: Points, tokenizer: Any) -> None:
    """Write the model at each point, merged from the weights that were kept and those that were not trained."""
    from plad_bench.learn import adapters, models

    for percent in points.percents:
        model, adapted = _untrained(context)
        points.give(model, percent)
        out = context.out / evaluation_points.directory(percent) / MODEL
        models.save(adapters.merge(adapted) if adapted else model, tokenizer, out)


def _selection(context: Context, model: Any, tokenizer: Any, encoder: Encoder, data: Steps) -> Selection:
    """The steps of a training whose best checkpoint is kept, by scores of greedy responses to validation prompts."""
    import torch

    from plad_bench.contract.memory_policy import MemoryPolicy
    from plad_bench.learn import ranks, sharding
    from plad_bench.learn.generation import Decoding, generate
    from plad_bench.learn.models import evaluating
    from plad_bench.learn.selection import Selection, points

    spec = context.spec["select"]
    room = encoder.context - spec["max_new_tokens"]
    limit = min(spec["prompts"], context.spec.get("limit") or spec["prompts"])
    prompts = read_prompts(context.inputs["data"], "validation", limit)
    prompts = [p for p in prompts if len(encoder.prompt(p.prompt)) <= room]
    score, decoding = scorer_of(context, context.job["select"]), Decoding(max_new_tokens=spec["max_new_tokens"])

    measured = _untrained(context, context.device, context.spec["precision"])[0] if context.shard else model

    def measure() -> float:
        if context.shard:
            sharding.gather(model, measured)
        return ranks.gather([math.nan if context.rank else value()])[0]

    def value() -> float:
        settings = measured.generation_config
        bf16 = torch.autocast(measured.device.type, torch.bfloat16, enabled=context.spec["precision"] == "bf16")
        with evaluating(measured), bf16:
            made = generate(measured, tokenizer, [p.prompt for p in prompts], decoding, memory_policy=MemoryPolicy())
        measured.generation_config = settings
        values = score([scored(p, response.text) for p, response in zip(prompts, made, strict=True)])
        known = [value for value in values if not math.isnan(value)]
        return statistics.mean(known) if known else math.nan

    steps = context.spec["steps"]
    return Selection(data, model, measure, points(steps, spec["points"]), context.partial / "selection")


def _selected(context: Context, selection: Selection) -> dict[str, Any]:
    """For the record: the metric, its values in its own direction by number of steps, and the step that was kept."""
    metric = context.chosen("select")
    sign = 1 if metric.component.better == "higher" else -1
    values = {str(step): None if math.isnan(v) else sign * v for step, v in sorted(selection.values.items())}
    return {"metric": metric.label, "values": values, "step": selection.best}


def _length(context: Context) -> Length:
    """When the training ends.

    Raises:
        SkippedError: if its inputs have used up its budget.
    """
    from plad_bench.learn.length import BudgetLength, StepCount

    spec = context.spec
    if "budget" not in spec:
        first, whole = spec.get("part", (0, 0))
        return StepCount(spec["steps"], first, whole)
    budget = spec["budget"]
    facts = {key: of for artifact in context.inputs.values() for key, of in artifact.facts.items()}
    before = expenses.total(context.job["before"], facts)
    if reason := expenses.exceeded(budget, before):
        raise SkippedError(reason)

    def used(result: Result) -> float:
        so_far = {
            "tokens_trained": result.tokens,
            "update_device_seconds": result.seconds,
            "teacher_tokens_scored": context.cost.get("teacher_tokens_scored", 0.0),
        }
        return expenses.used(budget, {**before, **so_far})

    return BudgetLength(budget["amount"], used, expenses.used(budget, before), spec.get("steps", 0))


def _tokens(context: Context, model: Any, method: Any, corpus: Corpus, order: Order) -> tuple[Any, TokenSteps]:
    """The loss module and the data of a token objective."""
    from plad_bench.learn import models
    from plad_bench.learn.objectives import TokenLoss
    from plad_bench.learn.sharding import ShardedSampler
    from plad_bench.learn.steps import TokenSteps
    from plad_bench.learn.teacher_cache import TeacherCache

    spec, objective, tokenizer = context.spec, method.component.objective, corpus.encoder.tokenizer
    texts, teacher = objective.texts(method.params), None
    rollouts: Sampler | None = None
    roles = [role for text in texts if (role := f"signals-{text}") in context.inputs]
    caches = [TeacherCache(context.inputs[role].path, corpus.encoder.hash, context.device) for role in roles]
    if "teacher" in context.inputs and objective.teacher_logits:
        teacher = _load_teacher(context, method, corpus)
    elif roles:
        corpus.teacher = _encoder_of(context.inputs[roles[0]].path, caches[0].context, corpus.encoder)
    if corpus.teacher is None:  # sequences are truncated to what both models can read
        read = [models.context_length(teacher)] if teacher is not None else []
        read += [cache.context for cache in caches if cache.context]
        corpus.encoder.context = min([corpus.encoder.context, *read])
    if Text.STUDENT in texts:
        sampled = _untrained(context, context.device, spec["precision"])[0] if context.shard else model
        rollouts = _sampler(context, sampled, teacher, corpus)
        rollouts.check(corpus.encoded)
        if context.shard:
            rollouts = ShardedSampler(rollouts, sampled, model)
    module = TokenLoss(model, teacher, method.params)
    return module, TokenSteps(
        objective,
        method.params,
        module,
        examples=[p.id for p in corpus.prompts],
        prompts=corpus.encoded,
        fixed={text: corpus.responses(context, text) for text in texts if text in FIXED},
        order=order,
        rollouts=rollouts,
        validation=corpus.validation(context) if objective.schedule and objective.schedule.validates else (),
        cost=context.cost,
        seed=spec["seed"],
        pad=tokenizer.pad_token_id,
        device=context.device,
        caches=caches,
        memory_policy=context.memory_policy,
        spell=corpus.sampled,
    )


def _sampler(context: Context, model: Any, teacher: Any, corpus: Corpus) -> Sampler:
    """What samples on-policy text."""
    from plad_bench.learn.rollouts import Rollouts
    from plad_bench.learn.vllm_rollouts import VllmRollouts

    spec = context.spec
    own = Rollouts(
        model,
        teacher,
        corpus.encoder.tokenizer,
        max_new_tokens=spec["max_new_tokens"],
        seed=spec["seed"],
        precision=spec["precision"],
        cost=context.cost,
        memory_policy=context.memory_policy,
        teacher_prompts=corpus.teacher_prompts,
        ends=corpus.ends,
    )
    if "rollouts" not in spec:
        return own
    longest = max(map(len, corpus.encoded)) + spec["max_new_tokens"]
    return VllmRollouts(own, context.partial / "engine", context.device, longest)


def _load_teacher(context: Context, method: Any, corpus: Corpus) -> Any:
    """The teacher's model without gradients; the corpus gets its encoder if tokenizer or prompts differ."""
    from plad_bench.learn import models

    teacher, tokenizer = models.load(context.inputs["teacher"].path / MODEL, context.device, context.spec["precision"])
    encoder = models.encoder(teacher, tokenizer, context.counts)
    if encoder.hash != corpus.encoder.hash:
        if method.component.shared_vocabulary:
            raise StageError(f"{method.label} compares logits, but student and teacher have different tokenizers")
        corpus.teacher = encoder
    elif not corpus.encoder.prompts_like(encoder):
        corpus.teacher = replace(encoder, counts={})  # the student's encoder counts the same texts
    return teacher.requires_grad_(False)  # noqa: FBT003  torch's own signature


def _encoder_of(cache: Path, context: int, encoder: Encoder) -> Encoder | None:
    """The encoder of the teacher whose log-probabilities were precomputed, if its prompts differ from the student's."""
    from plad_bench.learn import models
    from plad_bench.learn.teacher_cache import TOKENIZER

    if not (cache / TOKENIZER).is_dir():
        return None
    tokenizer = models.load_tokenizer(cache / TOKENIZER, "the teacher")
    teacher = replace(encoder, tokenizer=tokenizer, context=context or encoder.context, counts={})
    return None if encoder.prompts_like(teacher) else teacher


def _pairs(context: Context, model: Any, method: Any, corpus: Corpus, order: Order) -> tuple[Any, PairSteps]:
    """The loss module and the data of a pair objective."""
    from plad_bench.learn.objectives import PairLoss
    from plad_bench.learn.steps import PairSteps

    rows = corpus.pairs(context)
    pairs: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        if not (row["chosen"].empty or row["rejected"].empty):
            pairs.setdefault(row["id"], []).append(row)
    count(context, "empty_pairs", len(rows) - sum(map(len, pairs.values())))
    if not pairs:
        raise StageError(
            f"each of the {len(rows)} pairs has an empty side", "Check the teacher's responses and --max-new-tokens."
        )
    return PairLoss(model, method.component.objective, method.params), PairSteps(
        pairs,
        examples=[p.id for p in corpus.prompts],
        order=order,
        seed=context.spec["seed"],
        pad=corpus.encoder.tokenizer.pad_token_id,
        device=context.device,
    )
