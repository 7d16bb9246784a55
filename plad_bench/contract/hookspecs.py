"""The hooks of plad-bench, in the order in which they are called.

A plugin is a module, or any object, with functions of these names that are decorated with `@hookimpl`. It is registered
under the entry-point group `plad_bench` or given as a file with `-p`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import click

    from plad_bench.contract.components import Check, Launcher, Method, Metric, PairBuilder, Student, Task, Teacher
    from plad_bench.contract.events import Event
    from plad_bench.contract.views import BoardView, CellView

hookspec = pluggy.HookspecMarker("plad_bench")
hookimpl = pluggy.HookimplMarker("plad_bench")

# ------------------------------------------------------------------------------ registration: once, on first need


@hookspec
def plad_bench_teachers() -> Iterable[Teacher]:
    """Yield `Teacher` records.

    For example:

        @hookimpl
        def plad_bench_teachers():
            yield Teacher(name="house", summary="Our 8B model.", provides=frozenset({Access.TEXT, Access.LOGITS}),
                          model=lambda params: HubModel(id="our-org/house-8b"))
    """
    raise NotImplementedError


@hookspec
def plad_bench_pair_builders() -> Iterable[PairBuilder]:
    """Yield `PairBuilder` records.

    For example:

        def build(candidates, params, scorers):
            for c in candidates:
                yield Pair(id=c.id, chosen=c.responses[Text.REFERENCE][0], rejected=c.responses[Text.SAMPLE][0])

        @hookimpl
        def plad_bench_pair_builders():
            yield PairBuilder(name="reference-over-student", summary="The reference beats the student.",
                              needs=frozenset({Text.REFERENCE, Text.SAMPLE}), build=build)
    """
    raise NotImplementedError


@hookspec
def plad_bench_methods() -> Iterable[Method]:
    """Yield `Method` records.

    For example:

        def loss(student, teacher, labels, params):
            q, p = student.log_softmax(-1), teacher.log_softmax(-1)
            return (p.exp() * (p - q)).sum(-1)

        @hookimpl
        def plad_bench_methods():
            yield Method(name="my-kd", summary="Forward KL on references.", paper="arXiv:1503.02531",
                         title="Distilling the Knowledge in a Neural Network", equation="KL(p||q)",
                         access=Access.LOGITS, objective=TokenObjective(terms=(Term(loss=loss, text=Text.REFERENCE),)))
    """
    raise NotImplementedError


@hookspec
def plad_bench_metrics() -> Iterable[Metric]:
    """Yield `Metric` records.

    For example:

        @hookimpl
        def plad_bench_metrics():
            yield Metric(name="shout", summary="Share of upper-case responses.", better=None, unit="%",
                         score=lambda examples, params, scorers: [float(e.response.isupper()) for e in examples])
    """
    raise NotImplementedError


@hookspec
def plad_bench_tasks() -> Iterable[Task]:
    """Yield `Task` records.

    For example:

        @hookimpl
        def plad_bench_tasks():
            yield Task(name="echo", summary="Say it again.", dataset="made here", licence="CC0-1.0",
                       redistributable=True, metrics=("rouge-l",), student="tiny",
                       load=lambda params: (Example(prompt=w, references=(w,)) for w in ("one", "two", "three")))
    """
    raise NotImplementedError


@hookspec
def plad_bench_students() -> Iterable[Student]:
    """Yield `Student` records.

    For example:

        @hookimpl
        def plad_bench_students():
            yield Student(name="house-1b", summary="Our 1B model.", teacher="house",
                          model=lambda params: HubModel(id="our-org/house-1b"))
    """
    raise NotImplementedError


@hookspec
def plad_bench_launchers() -> Iterable[Launcher]:
    """Yield `Launcher` records.

    For example:

        @hookimpl
        def plad_bench_launchers():
            yield Launcher(name="cluster", summary="Our queue.", open=lambda params, options: Session(options))
    """
    raise NotImplementedError


@hookspec
def plad_bench_checks() -> Iterable[Check]:
    """Yield `Check` records for `plad-bench doctor`.

    For example:

        @hookimpl
        def plad_bench_checks():
            yield Check(name="scratch-disk", summary="Is the scratch disk mounted?",
                        run=lambda: [Finding(ok=Path("/scratch").is_dir(), message="/scratch", remedy="mount it")])
    """
    raise NotImplementedError


@hookspec
def plad_bench_commands(cli: click.Group) -> None:
    """Add Click commands to `cli`. Called when the command line starts.

    For example:

        @hookimpl
        def plad_bench_commands(cli):
            @cli.command()
            def hello():
                click.echo("hello")
    """


# -------------------------------------------------------------------------------------- planning: once for a cell


@hookspec(firstresult=True)
def plad_bench_cell_skip(cell: CellView) -> str | None:
    """Return the reason why a planned cell cannot run, or None. The first reason is used.

    For example:

        @hookimpl
        def plad_bench_cell_skip(cell):
            return "not on Sundays" if datetime.date.today().weekday() == 6 else None
    """


# --------------------------------------------- observation: an error is logged with the plugin's name, the run goes on


@hookspec
def plad_bench_run_started(event: Event) -> None:
    """A run has started; `event.data` contains its command and the number of cells.

    For example:

        @hookimpl
        def plad_bench_run_started(event):
            notify(f"{event.name} started")
    """


@hookspec
def plad_bench_stage_finished(event: Event) -> None:
    """A stage has ended; `event.status` is done or failed.

    For example:

        @hookimpl
        def plad_bench_stage_finished(event):
            log(event.name, event.status)
    """


@hookspec
def plad_bench_cell_finished(event: Event) -> None:
    """The record of a cell was written; `event.data` is the record.

    For example:

        @hookimpl
        def plad_bench_cell_finished(event):
            upload(event.data)
    """


@hookspec
def plad_bench_run_finished(event: Event) -> None:
    """A run has ended; `event.data` contains the numbers of done, cached, skipped and failed cells.

    For example:

        @hookimpl
        def plad_bench_run_finished(event):
            notify(f"{event.name}: {event.data['failed']} failed")
    """


# -------------------------------------------------------------------------------------- reporting: once for a board


@hookspec
def plad_bench_board_sections(board: BoardView) -> str | None:
    """Return Markdown to add to a board's page, or None. The result must depend on the board only.

    For example:

        @hookimpl
        def plad_bench_board_sections(board):
            return f"Board {board.name} was made possible by nobody."
    """
