"""`export prompts`: the prompts of a task, for a teacher that generates its responses elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from plad_bench.cli.state import State
from plad_bench.contract.files import write_atomically

if TYPE_CHECKING:
    from plad_bench.execute.stages.files import Prompt

SPLITS = ("train", "validation", "test")


@click.command("prompts")
@click.option("--task", required=True, help="Task selector.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(SPLITS),
    help="Split to export (may be repeated). A teacher needs responses to train and to the evaluation split, test by "
    "default.  [default: all]",
)
@click.option(
    "--limit", type=click.IntRange(1), help="Export the first N prompts of each split, as `run --limit N` uses them."
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write to FILE atomically.",
)
@click.pass_context
def prompts(ctx: click.Context, /, task: str, splits: Sequence[str], limit: int | None, output: Path | None) -> None:
    """Export the prompts of a task as JSON Lines with the fields split, id and prompt.

    Add a field `response` to every line to use the file as a teacher: --teacher 'recorded[path=FILE]'.
    """
    from plad_bench.contract.jsonlines import line_of
    from plad_bench.execute.stages.data import preview
    from plad_bench.plan.chosen import choose

    rows: list[Prompt] = []
    for chosen in choose(ctx.ensure_object(State).registry, "task", task):
        every = preview(chosen).prompts
        for split in splits or SPLITS:
            rows += [prompt for prompt in every if prompt.split == split][: limit or None]
    text = b"".join(line_of({"split": p.split, "id": p.id, "prompt": p.prompt}) for p in rows)
    if output is not None:
        write_atomically(output, text)
    else:
        click.echo(text.decode(), nl=False)
