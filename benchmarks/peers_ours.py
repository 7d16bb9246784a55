"""plad-bench's side of benchmarks/peers.py."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from peers_loop import logprobs
from peers_work import LR, Clock, Turn, Work

METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "sft": ("sft", {}),
    "kd": ("kd", {"ce_weight": 0.0}),
    "jsd": ("gkd", {"on_policy": 0.0}),
    "dpo": ("dpo", {"beta": 0.1}),
    "plad": ("plad", {}),
    "gkd": ("gkd", {"on_policy": 1.0, "sampling_temperature": 1.0}),
}


def ours(step: str, work: Work, count: int) -> Turn:
    """A turn of plad-bench's own training loop."""
    from plad_bench.contract.objectives import PairObjective
    from plad_bench.contract.registry import Registry
    from plad_bench.learn import training
    from plad_bench.learn.length import StepCount

    registry = Registry.load()
    name, given = METHODS[step]
    method = registry.get("method", name)
    params = registry.configure(method, given)
    paired = isinstance(method.objective, PairObjective)
    module, data = (pair_steps if paired else token_steps)(method, params, work, count)
    if work.cuda:  # as in trainings of a minute and more
        module.compile_parts()
    clock, losses = Clock(work), []

    def progress(done: int, steps: int, **values: float) -> None:
        losses.append(values["loss"])
        clock.tick()

    with tempfile.TemporaryDirectory() as directory:
        training.train(
            module, data, length=StepCount(count), lr=LR, seed=0, precision="bf16" if work.cuda else "float32",
            device="cuda:0" if work.cuda else "cpu", checkpoint=Path(directory) / "none", progress=progress,
        )  # fmt: skip
    return Turn(losses[0], clock.seconds, 0)


def token_steps(method: Any, params: Any, work: Work, count: int) -> tuple[Any, Any]:
    """The module and the steps of a token objective, as the train stage makes them."""
    from plad_bench.contract.enums import Text
    from plad_bench.learn.objectives import TokenLoss
    from plad_bench.learn.rollouts import Rollouts
    from plad_bench.learn.sequences import Tokens
    from plad_bench.learn.steps import TokenSteps

    student = work.student()
    teacher = work.teacher if method.objective.teacher_logits else None
    module = TokenLoss(student, teacher, params)
    rollouts = Rollouts(
        student, teacher, work.tokenizer(), max_new_tokens=work.new_tokens, seed=0,
        precision="bf16" if work.cuda else "float32",
    )  # fmt: skip
    texts = [[Tokens(prompt, response)] for prompt, response in work.sequences]
    every = list(range(len(texts)))
    steps = TokenSteps(
        method.objective, params, module, examples=[str(i) for i in every], prompts=[p for p, _ in work.sequences],
        fixed=dict.fromkeys((Text.REFERENCE, Text.TEACHER, Text.SAMPLE), texts), order=[every] * count,
        rollouts=rollouts, validation=(), cost={}, seed=0, pad=2, device="cuda:0" if work.cuda else "cpu",
    )  # fmt: skip
    return module, steps


def pair_steps(method: Any, params: Any, work: Work, count: int) -> tuple[Any, Any]:
    """The module and the steps of a pair objective, with what a reference model says of the pairs known."""
    from plad_bench.learn.objectives import PairLoss
    from plad_bench.learn.sequences import Tokens
    from plad_bench.learn.steps import PairSteps

    student = work.student()
    module = PairLoss(student, method.objective, params)
    rows = [{"chosen": Tokens(*a), "rejected": Tokens(*b)} for a, b in zip(work.sequences, work.rejected, strict=True)]
    if method.objective.reference:
        with torch.no_grad(), work.autocast():
            known = logprobs(student, work, [*work.sequences, *work.rejected])[0].chunk(2)
        for row, chosen, rejected in zip(rows, *(side.tolist() for side in known), strict=True):
            row |= {"reference_chosen": chosen, "reference_rejected": rejected}
    every = list(range(len(rows)))
    return module, PairSteps(
        {str(i): [row] for i, row in enumerate(rows)}, examples=[str(i) for i in every], order=[every] * count,
        seed=0, pad=2, device="cuda:0" if work.cuda else "cpu",
    )  # fmt: skip
