"""Work in batches under the memory there is: what does not fit is done again with half as many sequences at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import MemoryPolicy

T = TypeVar("T")

SMALL = 4
"""Below this micro-batch a device is idle for much of a step, so activations are computed twice before."""

_SIGNS = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""What says so in a bare RuntimeError."""


def fit(
    work: Callable[[int], T],
    most: int,
    memory_policy: MemoryPolicy,
    recompute: Callable[[], None] | None = None,
    what: str = "",
) -> T:
    """The result of work that takes `most` sequences at a time, or as many as there is memory for.

    What one piece of work learns holds for the next ones of the stage: a pass that fails may have cost as much as one
    that does not.

    Args:
        work: given how many sequences to take at a time, does all of it, from the beginning if it is called again.
        most: how many it would take at once; the first attempt does, unless `memory_policy` knows better.
        memory_policy: what the stage has learned; what is found out here is put there.
        recompute: makes later calls compute activations again for their gradients, where the work has any.
        what: the work, for the error.

    Raises:
        StageError: if one sequence alone does not fit.
    """
    while True:
        size = min(most, memory_policy.micro_batch or most)
        try:
            return work(size)
        except Exception as error:
            if not is_short(error):
                raise
            if size <= 1 and (recompute is None or memory_policy.checkpointing):
                raise _too_small(f"{what or 'one sequence'} does not fit, a single sequence at a time", error) from None
        _free()  # not before the error is gone, whose frames hold the tensors
        if recompute is not None and not memory_policy.checkpointing and size // 2 < SMALL:
            memory_policy.checkpointing = True
            recompute()
        else:
            memory_policy.micro_batch = size // 2


def slices(batch: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """A batch, `size` items at a time."""
    for start in range(0, len(batch), size):
        yield batch[start : start + size]


@contextmanager
def room_for(what: str) -> Iterator[None]:
    """Say what it was that did not fit, where less of it cannot be done.

    Raises:
        StageError: if it does not.
    """
    try:
        yield
    except Exception as error:
        if not is_short(error):
            raise
        raise _too_small(f"{what} does not fit", error) from None


def is_short(error: Exception) -> bool:
    """Whether it says that a device, or the machine, has too little memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _too_small(what: str, error: Exception) -> StageError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return StageError(
        f"out of memory: {what} ({said})",
        "Take a smaller model, --precision bf16, or a lower --max-new-tokens; on a CPU have fewer --workers.",
    )


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
