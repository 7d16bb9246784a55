"""The processes that share one training: each takes its part of a step's work, and all hold the same weights.

Every rank knows the whole step, so what is drawn, counted and remembered is the same on all. Only gradients, losses and
sampled text cross. In a single process all of this is nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
from torch import distributed, nn

T = TypeVar("T")
_PATIENCE = timedelta(days=365)
"""The first may wait long for another run's lock. Who starts the ranks sees when one has died, and ends the others."""


@contextmanager
def together(rank: int, count: int, rendezvous_file: Path | None, device: str) -> Iterator[None]:
    """Be one of several, which find each other through a file that was not there before; alone, nothing happens."""
    if count == 1:
        yield
        return
    distributed.init_process_group(
        "gloo" if device == "cpu" else "cpu:gloo,cuda:nccl",
        store=distributed.FileStore(str(rendezvous_file), count),  # type: ignore[attr-defined]  # exported without saying so
        rank=rank,
        world_size=count,
        timeout=_PATIENCE,
        device_id=None if device == "cpu" else torch.device(device),
    )
    yield
    distributed.destroy_process_group()


def rank() -> int:
    """Which of them this is."""
    return distributed.get_rank() if _several() else 0


def count() -> int:
    """How many there are."""
    return distributed.get_world_size() if _several() else 1


def own() -> tuple[int, ...]:
    """What tells this rank's random numbers from the first's; nothing for the first."""
    return (rank(),) if rank() else ()


def even(size: int, total: int) -> int:
    """How many of `total` to do at a time, at most `size` if that is not 0, so that every rank has work."""
    return max(1, min(size or total, -(-total // count())))


def share(work: Sequence[T]) -> Sequence[T]:
    """This rank's part of some work."""
    return work[rank() :: count()]


def gather(mine: list[T]) -> list[T]:
    """The whole of what `share` divided, in its order."""
    if not _several():
        return mine
    parts: list[list[T]] = [[] for _ in range(count())]
    distributed.all_gather_object(parts, mine)
    whole: list[T] = []
    for i in range(max(map(len, parts))):
        whole += [part[i] for part in parts if i < len(part)]
    return whole


def least(size: int) -> int:
    """The smallest of the ranks' sizes, 0 meaning no limit."""
    if not _several():
        return size
    sizes: list[int] = [0] * count()
    distributed.all_gather_object(sizes, size)
    return min((one for one in sizes if one), default=0)


def add_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Make every gradient the sum over ranks. A rank that had no work has gradients of zero."""
    if not _several():
        return
    for parameter in parameters:
        if parameter.requires_grad:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            distributed.all_reduce(parameter.grad)


def add(values: dict[str, float]) -> dict[str, float]:
    """Make every value the sum over ranks. A name that this rank does not know is another's."""
    if not _several():
        return values
    everyones: list[dict[str, float]] = [{} for _ in range(count())]
    distributed.all_gather_object(everyones, values)
    names = dict.fromkeys(name for one in everyones for name in one)
    return {name: sum(one.get(name, 0.0) for one in everyones) for name in names}


def _several() -> bool:
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
