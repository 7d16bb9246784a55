"""`export data`: the prompts and references of a task, with metadata by which others find and read them."""

from __future__ import annotations

from pathlib import Path

import click

from plad_bench.cli.options import echo_json, json_option
from plad_bench.cli.state import State
from plad_bench.contract.errors import UsageError
from plad_bench.contract.files import write_atomically


@click.command("data")
@click.argument("task")
@click.argument("directory", type=click.Path(path_type=Path))
@json_option
@click.pass_context
def data(ctx: click.Context, /, task: str, directory: Path, *, as_json: bool) -> None:
    """Export the data of TASK to DIRECTORY: a file of JSON Lines per split, and Croissant metadata.

    Every line has the fields id, prompt and references. The metadata, croissant.json, is in the format of MLCommons,
    with the SHA-256 hash of each file. Data whose licence does not allow redistribution is not exported.
    """
    from plad_bench.contract.jsonlines import line_of
    from plad_bench.execute.stages.data import SHARES, preview
    from plad_bench.plan.chosen import choose
    from plad_bench.plan.stage import OPERATION_VERSION
    from plad_bench.render import croissant

    chosen = choose(ctx.ensure_object(State).registry, "task", task)
    if len(chosen) > 1:
        raise UsageError(f"{task} selects {len(chosen)} tasks", "Export one task at a time.")
    (component,) = (one.component for one in chosen)
    if not component.redistributable:
        raise UsageError(
            f"the data of {chosen[0].label} may not be redistributed (licence: {component.licence or 'unknown'})",
            "For a teacher elsewhere, use `plad-bench export prompts`, and do not publish the file.",
        )
    prompts = preview(chosen[0]).prompts
    files = {
        split: b"".join(
            line_of({"id": p.id, "prompt": p.prompt, "references": p.references}) for p in prompts if p.split == split
        )
        for split in SHARES
    }
    described = croissant.DataSet(
        name=chosen[0].label,
        description=component.summary,
        licence=component.licence,
        version=f"{component.version}.{OPERATION_VERSION['data']}.0",
    )
    for split, content in files.items():
        write_atomically(directory / f"{split}.jsonl", content)
    write_atomically(directory / croissant.FILE, croissant.metadata(described, files).encode())
    if as_json:
        echo_json({"task": chosen[0].label, "directory": str(directory), "files": [f"{s}.jsonl" for s in files]})
    else:
        click.echo(directory)
