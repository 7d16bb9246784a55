"""The slots of a stage whose work one process does, with the GPUs of all of them."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from plad_bench.contract.errors import StageError
from plad_bench.execute.worker import Context


@contextmanager
def gpus(context: Context) -> Iterator[Sequence[str]]:
    """What CUDA_VISIBLE_DEVICES is in each slot of a stage; ranks after the first wait here until the first is done.

    Raises:
        StageError: if the slots are on several machines.
    """
    from plad_bench.learn import ranks

    with ranks.together(context.rank, context.ranks, context.rendezvous_file, "cpu"):
        places = ranks.gather([(socket.gethostname(), os.environ.get("CUDA_VISIBLE_DEVICES", ""))])
        if len({machine for machine, _ in places}) > 1:
            raise StageError("the GPUs of --teacher-gpus are on several machines", "Lower --teacher-gpus.")
        yield [devices for _, devices in places]
        ranks.gather([])
