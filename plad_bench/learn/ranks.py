"""The ranks of a training: processes that divide each step's work, and hold equal weights or a part of them each.

Every rank knows the whole step, so draws, counts and state are equal on all ranks. Only gradients, losses and sampled
text are exchanged. In a single process these functions do nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import distributed, nn
from torch.distributed.tensor import DTensor

T = TypeVar("T")
_PATIENCE = timedelta(days=365)
"""The first rank may wait long for another run's lock. The driver sees when a rank dies, and stops the others."""


@contextmanager
def together(rank: int, count: int, rendezvous_file: Path | None, device: str) -> Iterator[None]:
    """Connect this rank with the others through a new file; a single process needs no connection."""
    if count == 1:
        yield
        return
    distributed.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
        store=distributed.FileStore(str(rendezvous_file), count),  # type: ignore[attr-defined]  # exported implicitly
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
        device_id=None if device == "cpu" else torch.device(device),
    )
    yield
    distributed.destroy_process_group()


def rank() -> int:
    """The rank of this process."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """The number of ranks."""
    return distributed.get_world_size() if _several() else 1


def own() -> tuple[int, ...]:
    """A scope that separates this rank's random numbers from the first rank's; empty for the first."""
    return (rank(),) if rank() else ()


def even(size: int, total: int) -> int:
    """The micro-batch size for `total` sequences, at most `size` unless that is 0, so that every rank has work."""
    return max(1, min(size or total, -(-total // count())))


def share(work: Sequence[T]) -> Sequence[T]:
    """This rank's share of some work."""
    return work[rank() :: count()]


def gather(mine: list[T]) -> list[T]:
    """Join the shares of all ranks, in the order of the whole."""
    if not _several():
        return mine
    parts: list[list[T]] = [[] for _ in range(count())]
    distributed.all_gather_object(parts, mine)
    whole: list[T] = []
    for i in range(max(map(len, parts))):
        whole += [part[i] for part in parts if i < len(part)]
    return whole


def least(size: int) -> int:
    """The smallest of the ranks' sizes; 0 means no limit."""
    if not _several():
        return size
    sizes: list[int] = [0] * count()
    distributed.all_gather_object(sizes, size)
    return min((one for one in sizes if one), default=0)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Sum every gradient over ranks. A rank without work contributes zeros."""
    if not _several():
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def whole(tensor: Any) -> Any:
    """A value, gathered on the CPU if it is a tensor that the ranks divide (learn/sharding.py) and all call this."""
    return tensor.full_tensor().cpu() if isinstance(tensor, DTensor) else tensor


def add(values: dict[str, float]) -> dict[str, float]:
    """Sum every value over ranks. A rank without a name contributes zero."""
    if not _several():
        return values
    everyones: list[dict[str, float]] = [{} for _ in range(count())]
    distributed.all_gather_object(everyones, values)
    names = dict.fromkeys(name for one in everyones for name in one)
    return {name: sum(one.get(name, 0.0) for one in everyones) for name in names}


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
