"""`export prompts`: the prompts of a task, by split, for a teacher whose answers are made elsewhere."""

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
@click.option("--task", required=True, help="Selector of the task.")
@click.option(
    "--split",
    "splits",
    multiple=True,
    type=click.Choice(SPLITS),
    help="Only these splits. A teacher answers train and the split to evaluate on, which is test.  [default: all]",
)
@click.option("--limit", type=click.IntRange(1), help="The first N prompts of each split: those of `run --limit N`.")
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write this file instead, whole or not at all.",
)
@click.pass_context
def prompts(ctx: click.Context, /, task: str, splits: Sequence[str], limit: int | None, output: Path | None) -> None:
    """Print the prompts of a task as JSON Lines: split, id and prompt of each.

    Add a field `response` to every line, and the file is a teacher: --teacher 'recorded[path=FILE]'.
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
