"""A plugin file for the tests: a task of two hundred prompts that trains in seconds, and a method written outside."""

from itertools import product

from plad_bench import (
    Access,
    Example,
    Method,
    Protocol,
    Task,
    Term,
    Text,
    TokenObjective,
    hookimpl,
)

COLOURS = ("red", "green", "blue", "grey", "black")
THINGS = ("door", "lamp", "boat", "coat", "cup", "hat", "key", "map")
PLACES = ("hall", "yard", "attic", "cellar", "shed")


def examples(params):
    for colour, thing, place in product(COLOURS, THINGS, PLACES):
        prompt = f"thing[{thing}] colour[{colour}] place[{place}]"
        yield Example(
            prompt=prompt, references=(f"The {colour} {thing} is in the {place}.", f"A {colour} {thing}: {place}.")
        )


def loss(student, teacher, labels, params):
    return (teacher.softmax(-1) - student.softmax(-1)).square().sum(-1)


@hookimpl
def plad_bench_tasks():
    yield Task(
        name="mini",
        summary="Where things are.",
        dataset="made here",
        licence="CC0-1.0",
        redistributable=True,
        load=examples,
        metrics=("rouge-l", "length", "agreement"),
        student="scratch[layers=1,width=16,heads=2,vocabulary=300]",
        protocol=Protocol(steps=4, sft_steps=6, batch=8, max_new_tokens=12, lr=1e-3, sft_lr=3e-3),
    )


@hookimpl
def plad_bench_methods():
    yield Method(
        name="squared",
        summary="Squared distance of distributions.",
        paper="none",
        title="A method of the tests",
        equation="sum (p - q)^2",
        access=Access.LOGITS,
        objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)),
    )
