"""The plugin file of the storm: a task of a few prompts, and the launcher whose workers run no model."""

from __future__ import annotations

from itertools import product

from plad_bench import Example, Launcher, Params, Protocol, Task, hookimpl
from plad_bench_plugins.launchers.local import LocalSession

COLOURS = ("red", "green", "blue", "grey", "black")
THINGS = ("door", "lamp", "boat", "coat", "cup", "hat", "key", "map", "pen", "jar", "bell", "drum", "rope", "sail")


class FakeSession(LocalSession):
    """Slots whose workers are forked from a process with fake stages."""

    preload = "fake_stages"


def examples(params):
    for colour, thing in product(COLOURS, THINGS):
        yield Example(prompt=f"thing[{thing}] colour[{colour}]", references=(f"The {thing} is {colour}.",))


@hookimpl
def plad_bench_tasks():
    yield Task(
        name="storm",
        summary="What colour things are.",
        dataset="made here",
        licence="CC0-1.0",
        redistributable=True,
        load=examples,
        metrics=("rouge-l", "length"),
        student="scratch[layers=1,width=16,heads=2,vocabulary=300]",
        protocol=Protocol(steps=12, sft_steps=8, batch=8, max_new_tokens=8, lr=1e-3, sft_lr=3e-3),
    )


@hookimpl
def plad_bench_launchers():
    yield Launcher(
        name="fake",
        summary="Workers that run no model.",
        params=Params,
        open=lambda params, options: FakeSession(options),
    )
