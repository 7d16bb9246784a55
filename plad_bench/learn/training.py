"""The training loop that every method shares: AdamW, warm-up and cosine decay, clipping, accumulation, resume."""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from plad_bench.contract.errors import StageError
from plad_bench.contract.files import unreadable
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn import ranks
from plad_bench.learn.memory import fit, is_short, room_for
from plad_bench.learn.seeds import derive

WARMUP_SHARE = 0.05
CLIP_NORM = 1.0
LOG_EVERY = 10

_Spared = Callable[[Callable[[int], dict[str, float]], int], dict[str, float]]
"""`fit` with what it learns."""
MicroStep = Callable[[nn.Module], tuple[Tensor, dict[str, float]]]
"""(wrapped module) -> loss of one micro-batch, already divided by the global batch's count, and what to log."""


@dataclass
class Step:
    """One optimiser step: its micro-batches, and how many tokens it trains on."""

    micro: Callable[[int], Sequence[MicroStep]]
    """(sequences or pairs in each at most) -> the micro-batches; called again with fewer where these do not fit."""
    most: int
    """Sequences or pairs that the largest has where nothing limits it."""
    tokens: int
    read: int = 0
    """Those and their prompts'."""


@dataclass
class Result:
    """What training leaves behind beside the trained module."""

    curve: list[dict[str, float]] = field(default_factory=list)
    tokens: int = 0
    read: int = 0
    milliseconds: list[float] = field(default_factory=list, compare=False)
    """Of every step, by the clock: no two runs agree on it."""


class Memory(Protocol):
    """What a run learns on its way beside the weights, such as the state of a schedule. Travels with the checkpoint."""

    def after(self, number: int, loss: float) -> dict[str, float]:
        """Hear of a step's loss; return what to log of it."""

    def state(self) -> dict[str, Any]:
        """All of it, as JSON values."""

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a state."""


def learning_rate(step: int, steps: int, peak: float) -> float:
    """Linear warm-up over the first 5 % of the steps, then a cosine to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))


def train(
    module: nn.Module,
    step_at: Callable[[int], Step],
    *,
    steps: int,
    lr: float,
    seed: int,
    precision: str,
    device: str,
    checkpoint: Path,
    progress: Callable[..., None],
    memory: Memory | None = None,
    memory_policy: MemoryPolicy | None = None,
    recompute: Callable[[], None] | None = None,
) -> Result:
    """Run `steps` optimiser steps and return the curves.

    `step_at` is a function of the step's number and, where there is one, of the model and the memory as they are at
    that step, and dropout one of the seed and the step, so a run that goes on from its checkpoint trains on exactly
    what an undisturbed one would have. `memory_policy` and `recompute` are those of learn/memory.py.

    Raises:
        StageError: if the loss is no longer finite, or the device too small for a micro-batch of one.
    """
    accelerator = Accelerator(cpu=device == "cpu", mixed_precision="bf16" if precision == "bf16" else "no")
    # One kernel for all weights on a GPU. On a CPU it would round otherwise than the committed boards, and save little.
    fused = True if device.startswith("cuda") else None
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=lr, fused=fused)
    # Ranks add up their gradients once a step (learn/ranks.py), however many micro-batches each has: no wrapper needed.
    module, optimizer = accelerator.prepare_model(module, evaluation_mode=True), accelerator.prepare(optimizer)
    result, first = _resume(checkpoint, accelerator.unwrap_model(module), optimizer, memory)
    module.train()
    every = max(25, steps // 10)
    memory_policy = memory_policy or MemoryPolicy()
    spared: _Spared = functools.partial(fit, memory_policy=memory_policy, recompute=recompute)
    for number in range(first, steps):
        began = time.perf_counter()
        step = step_at(number)
        memory_policy.micro_batch = ranks.least(
            memory_policy.micro_batch
        )  # what a rank learned while it sampled holds for all
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(number, steps, lr)
        values = _update(module, optimizer, accelerator, step, number, seed, spared)
        result.tokens += step.tokens
        result.read += step.read
        result.milliseconds.append(round(1000 * (time.perf_counter() - began), 3))
        if memory is not None:
            values |= memory.after(number, values["loss"])
        if number % LOG_EVERY == 0 or number == steps - 1:
            result.curve.append({"step": number, "lr": learning_rate(number, steps, lr), **values})
        progress(number + 1, steps, **values)
        if (number + 1) % every == 0 and number + 1 < steps:
            _save(checkpoint, accelerator.unwrap_model(module), optimizer, result, number + 1, memory)
    return result


def _update(  # noqa: PLR0917  everything that a step is
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    accelerator: Accelerator,
    step: Step,
    number: int,
    seed: int,
    spared: _Spared,
) -> dict[str, float]:
    def gradients(size: int) -> dict[str, float]:
        optimizer.zero_grad(set_to_none=True)
        torch.manual_seed(derive(seed, "step", number, *ranks.own()))
        return _gradients(module, accelerator, step, size)

    values = spared(gradients, step.most)
    if not math.isfinite(values["loss"]):
        raise StageError(
            f"the loss is {values['loss']} at step {number}",
            "Lower the learning rate (--lr or [lr=...]); at the first step, check the loss and the data.",
        )
    with room_for("an update of the weights"):
        if step.most:  # without, no gradient is none of zero: the optimiser leaves the weights alone
            ranks.add_gradients(module.parameters())
            values["gradient_norm"] = float(accelerator.clip_grad_norm_(module.parameters(), CLIP_NORM))
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return values


def _gradients(module: nn.Module, accelerator: Accelerator, step: Step, size: int) -> dict[str, float]:
    """Add up the gradients of this rank's micro-batches, and the losses of all ranks'.

    Raises:
        MemoryError: on every rank, if one of several has too little memory.
    """
    values: dict[str, float] = {"loss": 0.0, "short": 0.0}
    try:
        for one in ranks.share(step.micro(size)):
            loss, report = one(module)
            accelerator.backward(loss)
            values["loss"] += float(loss.detach())
            for name, value in report.items():
                values[name] = values.get(name, 0.0) + value
    except Exception as error:
        if ranks.count() == 1 or not is_short(error):
            raise
        values["short"] = 1.0  # the others wait for this rank's values
    values = ranks.add(values)
    if values.pop("short"):
        raise MemoryError("one of several processes has too little memory")
    return values


def _save(  # noqa: PLR0917  everything that a run is
    path: Path, module: nn.Module, optimizer: Any, result: Result, step: int, memory: Memory | None
) -> None:
    state = {
        "module": module.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": step,
        "result": json.dumps(vars(result)),
        "memory": json.dumps(memory.state() if memory is not None else {}),
    }
    if ranks.rank():
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())  # renamed before it is on the disk, it could take the place of a whole one
    temporary.replace(path)


def _resume(path: Path, module: nn.Module, optimizer: Any, memory: Memory | None) -> tuple[Result, int]:
    if not path.exists():
        return Result(), 0
    try:
        state, result, remembered = _load(path)
    except _TornError:
        path.replace(path.with_suffix(".bad"))
        return Result(), 0
    except OSError as error:
        raise unreadable(f"the checkpoint {path.parent.name[:12]}", error) from error
    module.load_state_dict(state["module"])
    optimizer.load_state_dict(state["optimizer"])
    if memory is not None:
        memory.restore(remembered)
    return result, state["step"]


class _TornError(Exception):
    """A checkpoint was cut by a power failure, altered, or is of another version."""


def _load(path: Path) -> tuple[dict[str, Any], Result, dict[str, Any]]:
    """What a checkpoint holds, after every byte of it was compared with its check sum.

    Raises:
        _TornError: if it is not what was written.
        OSError: if it cannot be read, MemoryError or the like if it does not fit: both say nothing of what is in it.
    """
    try:
        with zipfile.ZipFile(path) as file:
            altered = file.testzip()
        state = torch.load(path, weights_only=True, map_location="cpu")
        found = state, Result(**json.loads(state["result"])), json.loads(state["memory"])
    except OSError as error:
        if error.errno == errno.EINVAL:  # an altered header led to no place in the file
            raise _TornError from error
        raise
    except Exception as error:
        if is_short(error):
            raise
        raise _TornError from error
    if altered is not None:
        raise _TornError(altered)
    return found
