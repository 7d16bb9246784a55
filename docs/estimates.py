"""Writes the estimates of memory, time and disk on the pages, which `plan` makes of published models.

docs/models has their configuration files, our copies of their sizes, without weights.

`python docs/estimates.py` writes them; with `--check` it writes nothing and exits with 1 if a page differs.
"""

from __future__ import annotations

import json
import shlex
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from generate import DOCS, table, with_table
from huggingface_hub import constants

from plad_bench.cli.main import cli
from plad_bench.contract import hub

MODELS = DOCS / "models"
COMMANDS = (
    "plad-bench plan --methods plad,kd --student llama-1b --on H100",
    "plad-bench plan --methods plad,kd --student qwen-0.5b --teacher qwen-7b-instruct --on 4090",
    "plad-bench plan --methods seqkd,plad --student tinyllama --teacher 'openai[model=gpt-4o-mini]' --on 4090",
)
QWEN = "plad-bench plan --methods seqkd,plad,kd --student qwen-0.5b --teacher qwen-7b-instruct"
FITS = {
    "teacher responses": (QWEN, "teacher: generate training responses"),
    "`sft`, `seqkd`": (QWEN, "seqkd: train"),
    "`plad`": (QWEN, "plad: train"),
    "`kd`, teacher in memory": (QWEN, "kd: train"),
    "`kd --teacher-logprobs top-64`": (f"{QWEN} --teacher-logprobs top-64", "kd: train"),
    "fine-tuning of a base teacher, `qwen-7b` (LoRA)": (QWEN.replace("-instruct", ""), "teacher: train"),
}
"""Row of the table -> command and stage."""
SHARDED = "plad-bench plan --methods seqkd,plad,gkd --student qwen-7b --teacher qwen-7b-instruct --on H100"
RANKS = {"1": "", "4": " --ranks 4", "2 that share it": " --ranks 2 --shard", "4 that share it": " --ranks 4 --shard"}
RANKS["8 that share it"] = " --ranks 8 --shard"
"""Row of the table of GPUs -> options."""


def pages() -> dict[Path, str]:
    """Path -> text of every page with estimates."""
    with published():
        return {
            DOCS / "recipes.md": with_table("recipes.md", "estimates", _blocks(), by="estimates"),
            DOCS / "own-data.md": with_table("own-data.md", "fits", _fits(), by="estimates"),
            DOCS / "clusters.md": with_table("clusters.md", "shards", _shards(), by="estimates"),
        }


@contextmanager
def published() -> Iterator[None]:
    """A hub that is offline, with a cache of the configuration files."""
    kept = {name: getattr(constants, name) for name in ("HF_HUB_CACHE", "HF_HUB_OFFLINE")}
    with tempfile.TemporaryDirectory() as place:
        for file in MODELS.glob("*/*.json"):
            cached = Path(place) / f"models--{file.parent.name}--{file.stem}"
            commit = "0" * 40
            for path, text in (("refs/main", commit), (f"snapshots/{commit}/config.json", file.read_text("utf-8"))):
                (cached / path).parent.mkdir(parents=True)
                (cached / path).write_text(text, encoding="utf-8")
        constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE = place, True
        try:
            yield
        finally:
            for name, value in kept.items():
                setattr(constants, name, value)
            hub.pin({})


def plan(command: str, *more: str) -> str:
    """The output of a command, in an empty place."""
    hub.pin({})
    with tempfile.TemporaryDirectory() as place:
        where = ["--store", f"{place}/store", "--boards-dir", f"{place}/boards"]
        arguments = [*shlex.split(command)[1:], *where, *more]
        return CliRunner().invoke(cli, arguments, standalone_mode=False).stdout


def _blocks() -> str:
    """The estimates of every command, as `plan` prints them."""
    return "\n\n".join(f"```sh\n{command}\n```\n\n```text\n{_estimate(command)}\n```" for command in COMMANDS)


def _estimate(command: str) -> str:
    printed = plan(command)
    return printed[printed.index("Estimate") :].strip()


def _fits() -> str:
    rows = []
    for name, (command, stage) in FITS.items():
        small, large = (_work(f"{command} --on {gpu}", stage) for gpu in ("4090", "A100"))
        rows.append([name, f"{small['memory'] / 1e9:.1f} GB", _fit(small), _fit(large)])
    return table(["stage", "peak at once", "in 24 GB (`--on 4090`)", "in 80 GB (`--on A100`)"], rows)


def _shards() -> str:
    rows = []
    for name, options in RANKS.items():
        works = [_work(SHARDED + options, f"{method}: train") for method in ("seqkd", "plad", "gkd")]
        rows.append([name, *(f"{work['memory'] / 1e9:.0f} GB, {_fit(work)}" for work in works)])
    return table(["GPUs", "`sft`, `seqkd`", "`plad`", "`gkd`, teacher in memory"], rows)


def _work(command: str, stage: str) -> dict[str, Any]:
    parts = json.loads(plan(command, "--json"))["outlook"]["parts"]
    return next(part["work"] for part in parts if part["name"] == stage)


def _fit(work: Mapping[str, Any]) -> str:
    """Whether and how a stage fits, and how long it takes."""
    remedy, seconds = work["remedy"], work["seconds"]
    if not work["fits"]:
        return f"does not fit (it would with {remedy})" if remedy else "does not fit"
    means = [f"{work['micro_batch']} sequences at a time"] if work["micro_batch"] else []
    means += ["activations computed twice"] if work["checkpointing"] else []
    how = f" with {', '.join(means)}" if means else ""
    return f"fits{how}, {max(1, seconds / 60):.0f} min"


@click.command()
@click.option("--check", is_flag=True, help="Write nothing; exit 1 if a page differs.")
def main(*, check: bool) -> None:
    """Write the estimates."""
    differing = [path for path, text in pages().items() if path.read_text(encoding="utf-8") != text]
    for path in differing:
        click.echo(f"{path.name} {'differs: run python docs/estimates.py' if check else 'written'}")
    for path, text in pages().items() if differing and not check else ():
        path.write_text(text, encoding="utf-8")
    sys.exit(1 if check and differing else 0)


if __name__ == "__main__":
    main()
