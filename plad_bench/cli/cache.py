"""`cache`: look at the store of artifacts, check it, and free space."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import click

from plad_bench.cli.options import boards_option, echo_json, json_option, open_store, store_option
from plad_bench.contract.errors import CorruptArtifactError, ExitCode
from plad_bench.execute.stages.files import JOURNAL
from plad_bench.execute.store import Artifact


@click.group(short_help="Look at the store of artifacts.")
def cache() -> None:
    """Look at the store of artifacts: list, measure, verify, prune."""


@cache.command()
@store_option
@json_option
def ls(store: Path, *, as_json: bool) -> None:
    """List artifacts: key, stage, size, age."""
    rows = [_row(a) for a in open_store(store).artifacts()]
    if as_json:
        echo_json(rows)
        return
    for row in rows:
        click.echo(f"{str(row['key'])[:12]}  {row['stage']:<10} {_size(row['bytes']):>9}  {row['age_days']:.1f} d")


@cache.command()
@store_option
@json_option
def du(store: Path, *, as_json: bool) -> None:
    """Show the space artifacts take, by stage."""
    sizes: dict[str, int] = defaultdict(int)
    numbers: dict[str, int] = defaultdict(int)
    for artifact in open_store(store).artifacts():
        sizes[artifact.stage] += artifact.bytes
        numbers[artifact.stage] += 1
    if as_json:
        echo_json({stage: {"bytes": sizes[stage], "artifacts": numbers[stage]} for stage in sorted(sizes)})
        return
    width = max(map(len, ["total", *sizes]))
    for stage in sorted(sizes, key=lambda s: -sizes[s]):
        click.echo(f"{stage:<{width}} {numbers[stage]:>6} {_size(sizes[stage]):>9}")
    click.echo(f"{'total':<{width}} {sum(numbers.values()):>6} {_size(sum(sizes.values())):>9}")


@cache.command()
@store_option
@json_option
def verify(store: Path, *, as_json: bool) -> int:
    """Compare every byte with the manifests. Exit code 1 if an artifact is corrupt; the next run rebuilds it."""
    opened = open_store(store)
    bad = []
    checked = 0
    for path in opened.places():
        checked += 1
        try:
            opened.open(path, path.name)
        except CorruptArtifactError as error:
            bad.append({"key": path.name, "problem": error.message})
    if as_json:
        echo_json({"checked": checked, "corrupt": bad})
    else:
        for item in bad:
            click.echo(item["problem"])
        click.echo(f"{checked} artifacts checked, {len(bad)} corrupt", err=True)
    return ExitCode.FAILED if bad else ExitCode.OK


@cache.command()
@click.option("--days", type=click.FloatRange(0), default=30.0, show_default=True, help="Remove what is older.")
@click.option("--dry-run", is_flag=True, help="Only say what would go.")
@boards_option
@store_option
@json_option
def prune(boards_dir: Path, store: Path, *, days: float, dry_run: bool, as_json: bool) -> None:
    """Remove artifacts older than --days, but never the checkpoint of a recorded cell.

    Recorded are the cells of the boards in --boards-dir. What is removed can be computed again: what a teacher or a
    judge was asked for, and may have cost money, stays.
    """
    opened = open_store(store)
    kept = _recorded(opened.artifacts(), boards_dir)
    going = [a for a in opened.artifacts() if a.key not in kept and _age_days(a) >= days]
    if not dry_run:
        for artifact in going:
            opened.discard(artifact.path)
        opened.sweep()
    if as_json:
        echo_json({"removed": [a.key for a in going], "bytes": sum(a.bytes for a in going), "dry_run": dry_run})
        return
    verb = "would remove" if dry_run else "removed"
    click.echo(
        f"{verb} {len(going)} artifacts, {_size(sum(a.bytes for a in going))}; kept {len(kept)} of recorded cells"
    )


def _recorded(artifacts: Iterator[Artifact], boards: Path) -> set[str]:
    """Keys of the responses of recorded cells, of the checkpoints that made them, and of what was asked for."""
    from plad_bench.report import results

    keys = set()
    for path in boards.glob("*/cells/**/*.json"):
        try:
            keys.add(results.read(path).key)
        except (results.RecordError, OSError):
            continue
    kept = set()
    for artifact in artifacts:
        document = artifact.manifest["document"]
        if artifact.key in keys or document["operation"] == "ask" or JOURNAL in artifact.manifest["files"]:
            kept |= {artifact.key, document["inputs"].get("model", artifact.key)}
    return kept


def _row(artifact: Artifact) -> dict[str, object]:
    return {
        "key": artifact.key,
        "stage": artifact.stage,
        "bytes": artifact.bytes,
        "age_days": round(_age_days(artifact), 2),
    }


def _age_days(artifact: Artifact) -> float:
    return (time.time() - artifact.path.stat().st_mtime) / 86400


def _size(count: object) -> str:
    value = float(str(count))
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
