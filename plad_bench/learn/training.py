"""The training loop of every method. Read `train` from top to bottom: resume, data, loss, clipping, update, save.

A step computes the loss of one global batch, accumulates gradients over micro-batches and ranks, clips them, and
updates the weights with AdamW. The learning rate warms up linearly, then decays along a cosine (learn/length.py). A
killed run resumes from its last checkpoint and trains exactly as an undisturbed one would have.
"""

from __future__ import annotations

import errno
import functools
import json
import math
import os
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from plad_bench.contract.errors import StageError
from plad_bench.contract.files import unreadable
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.learn import optimizers, ranks, sharding
from plad_bench.learn.length import PARTS, Length, Result
from plad_bench.learn.memory import fit, is_short, room_for
from plad_bench.learn.objectives import LossModule
from plad_bench.learn.seeds import derive

T = TypeVar("T")
CLIP_NORM = 1.0
LOG_EVERY = 10
SAVE_EVERY = 25
"""Least number of steps between checkpoints."""
STALLED = 1000
"""Steps by which a training must have used up some of its budget."""


@dataclass
class Step:
    """The global batch of one optimiser step."""

    micro_batches: Callable[[int], Sequence[Mapping[str, Any]]]
    """(maximum size) -> the global batch in micro-batches, each the keyword arguments of a loss module's forward. It is
    called again with a smaller size where a micro-batch exceeds the memory."""
    largest: int
    """Sequences or pairs in the largest micro-batch if nothing limits its size; 0 if the step has none."""
    tokens: int
    """Response tokens it trains on."""
    read: int = 0
    """Tokens of prompts and responses."""
    elsewhere: float = 0.0
    """Device-seconds of other processes that made it, which the clock of this process does not count."""


class Steps:
    """Provides the data of each step. What it learns during the run, such as a schedule's state, is checkpointed."""

    def at(self, number: int, share: float) -> Step:
        """The step with this number, a function of the number, the share of the training before it, and the state."""
        raise NotImplementedError

    def after(self, number: int, share: float, loss: float, *, ends_part: bool) -> dict[str, float]:
        """Update the state with a step's loss; return values to log.

        Args:
            number: of the step.
            share: of the training, after the step.
            loss: of the step.
            ends_part: whether the step ended one of ten equal parts of the training.
        """
        return {}

    def state(self) -> dict[str, Any]:
        """The state as JSON values."""
        return {}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a state."""

    def close(self) -> None:
        """Stop what the steps have started."""


def train(
    module: LossModule,
    data: Steps,
    *,
    length: Length,
    lr: float,
    seed: int,
    precision: str,
    device: str,
    checkpoint: Path,
    progress: Callable[..., None],
    memory_policy: MemoryPolicy | None = None,
    recompute: Callable[[], None] | None = None,
    passed: Callable[[float, float, Result], None] | None = None,
    optimizer_name: str = "adamw",
    shard: bool = False,
) -> Result:
    """Train a loss module (TokenLoss or PairLoss) for a length, from its checkpoint if there is one.

    Data and dropout of a step depend on the seed, the step's number, the weights and the state of `data` alone, so a
    resumed run trains on what an undisturbed one would have. `memory_policy` and `recompute` are those of
    learn/memory.py. `passed` is called after each step, before a checkpoint is written, with the shares of the training
    before and after it. With `shard` the ranks divide the student among them (learn/sharding.py), which is on the CPU
    until then; a step that exceeds the memory of a rank is not divided further.

    Raises:
        StageError: if the loss is not finite, a single sequence exceeds the memory, or steps use up none of a budget.
    """
    module.bf16 = precision == "bf16"
    if shard:
        sharding.shard(module, precision, device)
    # No DDP wrapper: learn/ranks.py sums gradients over ranks once a step, however many micro-batches each rank has.
    optimizer = optimizers.make(optimizer_name, module, lr, device)
    memory_policy = memory_policy or MemoryPolicy()
    result = _resume(checkpoint, module, optimizer, data, mmap=shard)
    saved, share = (result.steps, length.share(result)), length.share(result)
    module.train()
    while share < 1:
        number, began, busy = length.number(result), time.perf_counter(), device_seconds(device)
        # Data: the global batch, which on-policy methods sample here.
        step = data.at(number, share)
        # Loss and gradients, accumulated over micro-batches, which are halved where the memory is short.
        memory_policy.micro_batch = ranks.least(memory_policy.micro_batch)  # sampling may have lowered one rank's
        dropout_seed = derive(seed, "step", number, *ranks.own())
        accumulate = functools.partial(_accumulate, module, optimizer, step, dropout_seed, shard=shard)
        values = fit(accumulate, step.largest, memory_policy, recompute)
        if not math.isfinite(values["loss"]):
            raise StageError(
                f"the loss is {values['loss']} at step {number}",
                "Lower the learning rate (--lr or [lr=...]); at the first step, check the loss and the data.",
            )
        # Clipping and update. Without data there are no gradients, and the optimiser changes nothing.
        rate = length.rate(result, lr)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with room_for("updating the weights"):
            if step.largest:
                if not shard:
                    ranks.add_gradients(module.parameters())
                norm = nn.utils.clip_grad_norm_(module.parameters(), CLIP_NORM)
                values["gradient_norm"] = float(ranks.whole(norm))
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        result.tokens += step.tokens
        result.read += step.read
        result.milliseconds.append(round(1000 * (time.perf_counter() - began), 3))
        result.seconds += ranks.add({"seconds": device_seconds(device) - busy + step.elsewhere})["seconds"]
        before, share = share, length.share(result)
        if not share and result.steps == STALLED:
            raise StageError(f"{STALLED} steps used up none of the budget", "Choose another kind of budget.")
        # The method's own schedule, the curve, and the checkpoint.
        values |= data.after(number, share, values["loss"], ends_part=length.ends_part(before, result))
        if number % LOG_EVERY == 0 or share == 1:
            result.curve.append({"step": number, "lr": rate, **values})
        progress(result.steps, length.steps(result), **values)
        if passed is not None:
            passed(before, share, result)
        if share < 1 and result.steps - saved[0] >= SAVE_EVERY and share - saved[1] >= 1 / PARTS:
            _save(checkpoint, module, optimizer, result, data)
            saved = (result.steps, share)
    return result


def device_seconds(device: str) -> float:
    """A clock of the time that a process uses a device: of a CPU slot, processor time over threads."""
    return time.process_time() / torch.get_num_threads() if device == "cpu" else time.perf_counter()


def _accumulate(
    module: LossModule, optimizer: Any, step: Step, dropout_seed: int, size: int, *, shard: bool
) -> dict[str, float]:
    """Accumulate the gradients of this rank's micro-batches of at most `size`; return values summed over all ranks.

    Losses are divided by the count of the whole global batch (learn/objectives.py), so sums are its averages.

    Raises:
        MemoryError: on every rank, if the memory of any of several is short.
        StageError: if the memory is short and the module is sharded, so that the other ranks wait for this one.
    """
    optimizer.zero_grad(set_to_none=True)
    torch.manual_seed(dropout_seed)
    values: dict[str, float] = {"loss": 0.0, "short": 0.0}
    try:
        for micro_batch, weight in _weighted(step.micro_batches(size), shard=shard):
            loss, report = module(**micro_batch)
            (loss * weight).backward()
            for name, value in {"loss": float(loss.detach()), **report}.items():
                values[name] = values.get(name, 0.0) + (value if weight else 0.0)
    except Exception as error:
        if ranks.count() == 1 or not is_short(error):
            raise
        if shard:
            raise StageError(
                f"out of memory in a step of a sharded model ({error})",
                "Use more --ranks, --precision bf16, or a lower --max-new-tokens.",
            ) from error
        values["short"] = 1.0  # the other ranks wait for this one's values
    values = ranks.add(values)
    if values.pop("short"):
        raise MemoryError("the memory of one of several processes is short")
    return values


def _weighted(work: Sequence[T], *, shard: bool) -> Iterator[tuple[T, int]]:
    """This rank's share of the micro-batches, with a factor for their loss.

    FSDP averages gradients over ranks, where the sum is needed. A rank with fewer micro-batches than others repeats the
    first one with a factor of zero, because all ranks have to take part when weights are gathered.
    """
    mine = ranks.share(work)
    yield from ((one, ranks.count() if shard else 1) for one in mine)
    if shard and len(mine) < math.ceil(len(work) / ranks.count()):
        yield work[0], 0


def _save(path: Path, module: nn.Module, optimizer: Any, result: Result, data: Steps) -> None:
    """Write a checkpoint atomically, on the first rank; the same file for any number of ranks."""
    state = {
        "module": {name: ranks.whole(value) for name, value in module.state_dict().items()},
        "optimizer": sharding.whole_state(optimizer),
        "result": json.dumps(vars(result)),
        "memory": json.dumps(data.state()),
    }
    if ranks.rank():
        return
    temporary = path.with_suffix(".tmp")
    with temporary.open("wb") as stream:
        torch.save(state, stream)
        stream.flush()
        os.fsync(stream.fileno())  # before the rename: otherwise a power failure could replace a whole file by a part
    temporary.replace(path)


def _resume(path: Path, module: nn.Module, optimizer: Any, data: Steps, *, mmap: bool) -> Result:
    """Restore the last checkpoint, if there is a valid one; the result so far."""
    if not path.exists():
        return Result()
    try:
        state, result, remembered = _load(path, mmap=mmap)
    except _CorruptError:
        path.replace(path.with_suffix(".bad"))
        return Result()
    except OSError as error:
        raise unreadable(f"the checkpoint {path.parent.name[:12]}", error) from error
    sharding.restore(module, optimizer, state["module"], state["optimizer"])
    data.restore(remembered)
    return result


class _CorruptError(Exception):
    """A checkpoint was truncated by a power failure, altered, or written by another version."""


def _load(path: Path, *, mmap: bool = False) -> tuple[dict[str, Any], Result, dict[str, Any]]:
    """The content of a checkpoint, after comparing every byte with its checksum.

    With `mmap`, what is not used takes no memory.

    Raises:
        _CorruptError: if the content is not what was written.
        OSError, MemoryError: if the file cannot be read, or exceeds the memory; neither means that it is corrupt.
    """
    try:
        with zipfile.ZipFile(path) as file:
            altered = file.testzip()
        state = torch.load(path, weights_only=True, map_location="cpu", mmap=mmap)
        found = state, Result(**json.loads(state["result"])), json.loads(state["memory"])
    except OSError as error:
        if error.errno == errno.EINVAL:  # an altered header points outside the file
            raise _CorruptError from error
        raise
    except Exception as error:
        if is_short(error):
            raise
        raise _CorruptError from error
    if altered is not None:
        raise _CorruptError(altered)
    return found
