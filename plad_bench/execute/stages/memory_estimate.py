"""Chooses the micro-batch and activation checkpointing of a training by an estimate of memory, before its first step.

The estimate is that of `plan`, with the model, the texts and the free memory that the stage has. If it is too low, the
training halves its micro-batches as before (`learn/memory.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from plad_bench.contract import machine
from plad_bench.execute.worker import Context
from plad_bench.plan import resources, shapes
from plad_bench.plan.resources import Device, Lengths, TrainingWork
from plad_bench.plan.shapes import Shape
from plad_bench.plan.stages import is_scheduled

if TYPE_CHECKING:
    from plad_bench.learn.steps import PairSteps, TokenSteps


def choose(context: Context, model: Any, teacher: Any, data: TokenSteps | PairSteps) -> bool:
    """Limit the stage's memory policy to what the estimate says fits, and note what was chosen and why.

    Nothing changes if the whole batch fits, if the memory or the shape of the model is unknown, or if the policy has
    limits already.

    Returns:
        Whether layers and losses are worth compiling; not if the number of steps or the shape of the model is unknown.
    """
    from plad_bench.learn import models
    from plad_bench.learn.steps import PairSteps

    policy, device, student = context.memory_policy, device_of(context.device), shape_of(model)
    if "rollouts" in context.spec:  # vLLM's engine starts when a step first samples
        device = resources.beside_engine(device)
    sizes = _sizes(data, context.spec.get("max_new_tokens", 0))
    if student is None or not sizes:
        return False
    method = context.chosen("method")
    each, spec = 2 if isinstance(data, PairSteps) else 1, context.spec
    work = TrainingWork(
        student=student,
        steps=spec.get("steps", 0),
        batch=each * -(-spec["batch"] // context.ranks),
        lengths=Lengths.of(sizes, each * spec["batch"]),
        bf16=spec["precision"] == "bf16",
        lora=spec.get("lora", 0),
        moments_in_8_bits="optimizer" in spec,
        teacher=shape_of(teacher) if teacher is not None else None,
        dense=_of_heads(data),
        sampled=spec.get("max_new_tokens", 0),
        ranks=context.ranks,
        sharded=context.shard,
        selects="select" in spec,
        teacher_logits=bool(getattr(method.component.objective, "teacher_logits", False)),
        pairs=each > 1,
        scheduled=is_scheduled(method),
    )
    found = resources.training(work, device)
    if not device.memory or policy.micro_batch or policy.checkpointing:
        return found.compiled
    policy.micro_batch = max(1, found.micro_batch // each) if found.micro_batch else 0
    policy.checkpointing = found.checkpointing
    if policy.checkpointing:
        models.checkpoint(model)
    if policy.micro_batch or policy.checkpointing:
        context.notes["memory"] = {
            "estimated_bytes": round(found.memory),
            "available_bytes": round(device.memory),
            "micro_batch": policy.micro_batch,
            "checkpointing": policy.checkpointing,
        }
    return found.compiled


def device_of(name: str) -> Device:
    """The memory that a stage may use: all that is free on its GPU, or the machine's; its speed is left out."""
    if not name.startswith("cuda"):
        return Device(machine.memory(), 0, 1, gpu=False)
    import torch

    free, _ = torch.cuda.mem_get_info(name)
    return Device(free + torch.cuda.memory_reserved(name), 0, 1, gpu=True)


def shape_of(model: Any) -> Shape | None:
    """The shape of a model; None if its configuration has no sizes of a decoder."""
    config = {"is_encoder_decoder": model.config.is_encoder_decoder, **model.config.get_text_config().to_dict()}
    return shapes.shape_of(config, sum(p.numel() for p in model.parameters()))


def _of_heads(data: TokenSteps | PairSteps) -> Shape | None:
    """A shape with the output head of a teacher whose hidden states were precomputed; None if there is none."""
    found = (cache for cache in getattr(data, "caches", ()) if cache.head is not None)
    return next((Shape(0, cache.values.shape[1], 0, 0, 0, cache.vocabulary) for cache in found), None)


def _sizes(data: TokenSteps | PairSteps, new: int) -> list[tuple[int, int]]:
    """The numbers of tokens of the prompts and responses that the training may read; `new` of a sampled response."""
    from plad_bench.learn.steps import PairSteps

    if isinstance(data, PairSteps):
        texts = [row[side] for rows in data.pairs.values() for row in rows for side in ("chosen", "rejected")]
    else:
        texts = [sequence for several in data.fixed.values() for some in several for sequence in some]
    sampled = [(len(prompt), new) for prompt in data.prompts] if new and not isinstance(data, PairSteps) else []
    return [(len(text.prompt), len(text.response)) for text in texts] + sampled
