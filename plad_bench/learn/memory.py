"""Fits batched work into the memory: work that exceeds it is repeated with half as many sequences at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

import torch

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import SMALL, MemoryPolicy

T = TypeVar("T")


_SIGNS = ("out of memory", "DefaultCPUAllocator", "CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED")
"""Texts of RuntimeErrors that mean a lack of memory."""


def fit(
    work: Callable[[int], T],
    most: int,
    memory_policy: MemoryPolicy,
    recompute: Callable[[], None] | None = None,
    what: str = "",
) -> T:
    """Do work with at most `most` sequences at a time, or as many as fit into the memory.

    The size found holds for later work of the stage, since a failed attempt may cost as much as a successful one.

    Args:
        work: (sequences at a time) -> result; it does all of the work, from the beginning each time.
        most: the size of the first attempt, unless `memory_policy` has a smaller one.
        memory_policy: the sizes that the stage has found; updated here.
        recompute: makes later calls recompute activations for their gradients, if the work has gradients.
        what: the work, for the error.

    Raises:
        StageError: if a single sequence exceeds the memory.
    """
    while True:
        size = min(most, memory_policy.micro_batch or most)
        try:
            return work(size)
        except Exception as error:
            if not is_short(error):
                raise
            if size <= 1 and (recompute is None or memory_policy.checkpointing):
                raise _too_small(f" at micro-batch size 1{f': {what}' if what else ''}", error) from None
        _free()  # after the except block: the error's frames hold the tensors
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
    """Name the work in the error if it exceeds the memory and cannot be divided.

    Raises:
        StageError: if it exceeds the memory.
    """
    try:
        yield
    except Exception as error:
        if not is_short(error):
            raise
        raise _too_small(f": {what}", error) from None


def is_short(error: Exception) -> bool:
    """Whether an error means that the device, or the machine, lacks memory."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in _SIGNS)


def _too_small(where: str, error: Exception) -> StageError:
    said = (str(error).splitlines() or [type(error).__name__])[0]
    return StageError(
        f"out of memory{where} ({said})",
        "Use a smaller model, --precision bf16, or a lower --max-new-tokens; on a CPU, fewer --workers.",
    )


def _free() -> None:
    gc.collect()
    torch.cuda.empty_cache()
