"""`cache`: inspect, check and clean up the artifact store."""

from __future__ import annotations

import shutil
import time
from collections import defaultdict
from pathlib import Path

import click

from plad_bench.cli.options import Number, boards_option, echo_json, json_option, open_store, store_option
from plad_bench.contract import locks
from plad_bench.contract.errors import CorruptArtifactError, ExitCode, MissingError
from plad_bench.execute.store import RESPONSE_CACHE, Artifact, Store, directory_bytes


@click.group(short_help="Inspect and clean up the artifact store.")
def cache() -> None:
    """Inspect and clean up the artifact store."""


@cache.command()
@store_option
@json_option
def ls(store: Path, *, as_json: bool) -> None:
    """List artifacts with their key, stage, size and age."""
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
    """Show disk usage: artifacts by stage, checkpoints of incomplete stages, and the quarantine."""
    opened = open_store(store)
    sizes: dict[str, list[int]] = defaultdict(list)
    for artifact in opened.artifacts():
        sizes[artifact.stage].append(artifact.bytes)
    for name, paths in (("unfinished", opened.partials()), ("quarantine", opened.quarantined.glob("*"))):
        if found := [directory_bytes(path) for path in paths]:
            sizes[name] = found
    if as_json:
        echo_json({name: {"bytes": sum(found), "artifacts": len(found)} for name, found in sizes.items()})
        return
    width = max(map(len, ["total", *sizes]))
    for name, found in sorted(sizes.items(), key=lambda item: -sum(item[1])):
        click.echo(f"{name:<{width}} {len(found):>6} {_size(sum(found)):>9}")
    everything = [size for found in sizes.values() for size in found]
    click.echo(f"{'total':<{width}} {len(everything):>6} {_size(sum(everything)):>9}")


@cache.command()
@store_option
@json_option
def verify(store: Path, *, as_json: bool) -> int:
    """Verify the checksums of all artifacts. Exits with 1 if one is corrupt; the next run rebuilds it."""
    opened = open_store(store)
    bad = []
    checked = 0
    for path in opened.places():
        checked += 1
        try:
            opened.open(path, path.name)
        except (CorruptArtifactError, MissingError) as error:
            bad.append({"key": path.name, "problem": error.message})
    if as_json:
        echo_json({"checked": checked, "corrupt": bad})
    else:
        for item in bad:
            click.echo(item["problem"])
        click.echo(f"{checked} artifacts checked, {len(bad)} corrupt", err=True)
    return ExitCode.FAILED if bad else ExitCode.OK


@cache.command()
@click.option("--days", type=Number(0), default=30.0, show_default=True, help="Minimum age in days.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and remove nothing.")
@boards_option
@store_option
@json_option
def prune(boards_dir: Path, store: Path, *, days: float, dry_run: bool, as_json: bool) -> None:
    """Remove artifacts older than --days, except the checkpoints of recorded cells.

    Recorded cells are those of the boards in --boards-dir. Checkpoints of interrupted trainings and quarantined
    artifacts of the same age are removed too. Responses of teachers and judges, which may have cost money, are kept:
    everything that is removed can be recomputed.
    """
    opened = open_store(store)
    kept = _recorded(opened, boards_dir)
    going = [a for a in opened.artifacts() if a.key not in kept and _age_days(a.path) >= days]
    abandoned = [path for path in opened.partials() if _abandoned(opened, path, days)]
    bad = [path for path in opened.quarantined.glob("*") if _age_days(path) >= days]
    size = sum(a.bytes for a in going) + sum(map(directory_bytes, (*abandoned, *bad)))
    if not dry_run:
        for artifact in going:
            opened.remove(artifact.path)
        for path in abandoned:
            with locks.held(opened.lock(path.name), wait=False) as mine:
                if mine:  # otherwise another process is completing it
                    shutil.rmtree(path, ignore_errors=True)
        for path in bad:
            shutil.rmtree(path, ignore_errors=True)
        opened.sweep()
    if as_json:
        echo_json(
            {
                "removed": [a.key for a in going],
                "unfinished": [path.name for path in abandoned],
                "quarantine": [path.name for path in bad],
                "bytes": size,
                "dry_run": dry_run,
            }
        )
        return
    verb = "would remove" if dry_run else "removed"
    others = f"{len(abandoned)} unfinished stages, {len(bad)} in quarantine"
    click.echo(f"{verb} {len(going)} artifacts, {others}, {_size(size)}; kept {len(kept)} of recorded cells")


def _abandoned(store: Store, path: Path, days: float) -> bool:
    """Whether the partial results of a stage can go: it has completed, or they are old and hold no response cache."""
    if store.place(path.name).is_dir():
        return True
    newest = min(_age_days(file) for file in (path, *path.rglob("*")))
    return newest >= days and not (path / RESPONSE_CACHE).is_file()


def _recorded(store: Store, boards: Path) -> set[str]:
    """Keys of the artifacts to keep: responses of recorded cells, their checkpoints, and responses of endpoints.

    Raises:
        MissingError: if a record, or an artifact that it depends on, cannot be read, so that it is unknown what to
            keep.
    """
    from plad_bench.records import storage

    keys = set()
    for path in boards.glob("*/cells/**/*.json"):
        try:
            keys.add(storage.read(path).key)
        except storage.RecordError as error:
            raise MissingError(
                f"cannot read the record {path} ({error.message}), so nothing was removed",
                "Restore the record from version control, or delete it.",
            ) from error
    kept, seen = set(), set()
    for artifact in store.artifacts():
        document = artifact.manifest["document"]
        seen.add(artifact.key)
        if artifact.key in keys or document["operation"] == "ask" or RESPONSE_CACHE in artifact.manifest["files"]:
            kept |= {artifact.key, document["inputs"].get("model", artifact.key)}
    if unread := [path.name for path in store.places() if path.name in keys - seen]:
        raise MissingError(
            f"the manifest of artifact {unread[0][:12]}, which a record depends on, is corrupt, so nothing was removed",
            "Run the board's command again to rebuild the artifact.",
        )
    return kept


def _row(artifact: Artifact) -> dict[str, object]:
    return {
        "key": artifact.key,
        "stage": artifact.stage,
        "bytes": artifact.bytes,
        "age_days": round(_age_days(artifact.path), 2),
    }


def _age_days(path: Path) -> float:
    try:
        return (time.time() - path.stat().st_mtime) / 86400
    except FileNotFoundError:  # another process has just removed it
        return 0.0


def _size(count: object) -> str:
    value = float(str(count))
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"
