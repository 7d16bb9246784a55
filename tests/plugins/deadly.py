"""A plugin file for the tests: a task whose first loading is killed in the middle of drawing a progress bar."""

import os
import signal
from pathlib import Path

from tqdm import tqdm

from plad_bench import Example, Params, Protocol, Task, hookimpl, param


class DeadlyParams(Params):
    """Where to remember that it happened."""

    marker: str = param("")
    """A file that is made just before the kill; once it is there, nothing is killed."""


def examples(params):
    with tqdm.get_lock():
        if not Path(params.marker).exists():
            Path(params.marker).touch()
            os.kill(os.getpid(), signal.SIGKILL)
    for number in range(100):
        yield Example(prompt=f"number{number} of a hundred", references=(f"{number}",))


@hookimpl
def plad_bench_tasks():
    yield Task(
        name="deadly",
        summary="Is killed once while it is loaded.",
        params=DeadlyParams,
        dataset="made here",
        licence="CC0-1.0",
        redistributable=True,
        load=examples,
        metrics=("length",),
        student="scratch",
        protocol=Protocol(steps=1, batch=1, max_new_tokens=4),
    )
