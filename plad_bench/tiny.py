"""A plugin with a tiny task, student and teacher, on which tests of other plugins run in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

from plad_bench.contract.components import Student, Task, Teacher, Training
from plad_bench.contract.enums import Access
from plad_bench.contract.examples import Example
from plad_bench.contract.hookspecs import hookimpl
from plad_bench.contract.models import ScratchModel
from plad_bench.contract.params import TaskParams
from plad_bench.contract.protocol import Protocol

COLOURS = ("red", "green", "blue", "grey", "black", "white", "brown", "golden")
THINGS = ("door", "lamp", "boat", "coat", "cup", "hat", "key", "bell")
SMALL = ScratchModel(layers=1, width=16, heads=2, vocabulary=300, context=64)
LARGE = ScratchModel(layers=2, width=32, heads=2, vocabulary=300, context=64)


def examples(params: TaskParams) -> Iterator[Example]:
    """64 prompts with two references each."""
    for colour, thing in product(COLOURS, THINGS):
        yield Example(prompt=f"{colour} {thing}", references=(f"The {thing} is {colour}.", f"A {colour} {thing}."))


TASK = Task(
    name="tiny-task",
    summary="Colours of things, for tests of plugins.",
    dataset="made here",
    licence="CC0-1.0",
    redistributable=True,
    load=examples,
    metrics=("rouge-l", "length"),
    student="tiny-student",
    protocol=Protocol(steps=10, sft_steps=30, batch=8, max_new_tokens=12, lr=3e-3, sft_lr=1e-2),
)
STUDENT = Student(
    name="tiny-student",
    summary="A Llama of one layer from scratch.",
    model=lambda params: SMALL,
    teacher="tiny-teacher",
)
TEACHER = Teacher(
    name="tiny-teacher",
    summary="A Llama of two layers from scratch, trained on the references for a moment.",
    provides=frozenset(Access) - {Access.NONE},
    model=lambda params: LARGE,
    training=lambda params: Training(steps=60, lr=1e-2, batch=8),
)


@hookimpl
def plad_bench_tasks() -> Iterator[Task]:
    """Register the task."""
    yield TASK


@hookimpl
def plad_bench_students() -> Iterator[Student]:
    """Register the student."""
    yield STUDENT


@hookimpl
def plad_bench_teachers() -> Iterator[Teacher]:
    """Register the teacher."""
    yield TEACHER
