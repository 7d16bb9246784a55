"""One stage in a fresh process, or in several ranks: reads a job file, computes, and seals the artifact.

A job is a JSON file: {store, shipped, stage, document, key, inputs, job, plugins, device, threads, ranks,
rendezvous_file, commits, spent, max_cost}. The result is the artifact, which the first rank puts into the store, or
`<job>.error` with the reason of the failure. Workers and driver share nothing else.
"""

from __future__ import annotations

import errno
import functools
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plad_bench.contract import hub, locks
from plad_bench.contract.errors import BudgetError, MissingError, PladBenchError, SkippedError, StageError
from plad_bench.contract.files import unwritable, write_atomically
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.money import Budget
from plad_bench.contract.registry import Registry
from plad_bench.execute import lineage, provenance
from plad_bench.execute.accounting import Attempt
from plad_bench.execute.store import Artifact, Store
from plad_bench.execute.usage import Usage

if TYPE_CHECKING:
    from plad_bench.plan.chosen import Chosen


_MODULES = {"signals": "teacher_logprobs"}
"""Operation -> its module where their names differ. Operations are part of every key, so they keep their names."""


@dataclass
class Context:
    """The inputs of an operation, and its outputs besides files."""

    spec: Mapping[str, Any]
    job: Mapping[str, Any]
    inputs: Mapping[str, Artifact]
    out: Path
    """Files written here become the artifact."""
    partial: Path
    """Files written here survive a kill."""
    device: str
    registry: Registry
    counts: dict[str, float]
    """For the manifest: numbers of items dropped, truncated, ..."""
    cost: dict[str, float]
    """For the manifest: tokens, bytes, ..."""
    notes: dict[str, Any]
    """For the manifest: facts for a reader, such as a fallback."""
    _progress: Path
    usage: Usage = field(default_factory=Usage)
    """What the stage has cost so far."""
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """The stage's memory policy, which it adapts as it runs."""
    budget: Budget = field(default_factory=Budget)
    """The budget of the run."""
    rank: int = 0
    """The rank of this process. Only the first writes and reports."""
    ranks: int = 1
    """The number of processes that share the stage."""
    shard: bool = False
    """Whether they divide the trained model among them."""
    rendezvous_file: Path | None = None
    """The file by which ranks connect."""
    _last: float = 0.0

    def chosen(self, role: str, values: Mapping[str, Any] | None = None) -> Chosen:
        """The component of the job in a role, with its parameters."""
        from plad_bench.plan.chosen import Chosen

        named = values if values is not None else self.job[role]
        registered = self.registry.find(named["kind"], named["name"])
        return Chosen(named["kind"], registered, self.registry.configure(registered.component, named["params"]))

    def progress(self, step: int, total: int, **values: float) -> None:
        """Report progress, at most five times a second."""
        now = time.monotonic()
        if self.rank or (now - self._last < 0.2 and step < total):
            return
        self._last = now
        line = json.dumps({"step": step, "total": total, **{k: round(v, 5) for k, v in values.items()}})
        # Written by renaming, so that no reader sees half a line. Losing it in a crash costs nothing.
        temporary = self._progress.with_suffix(".tmp")
        temporary.write_text(line)
        temporary.replace(self._progress)
        self.usage.save()


def main(job_file: str, rank: str = "0") -> int:
    """Run the stage of a job file, as one of its ranks, and return the exit code."""
    path = Path(job_file)
    job = json.loads(path.read_text())
    report = path.with_suffix(".error")
    try:
        _run(job, path.with_suffix(".progress"), int(rank))
    except PladBenchError as error:
        _report(report, error)
        print(error, file=sys.stderr)  # noqa: T201  the stage's log
        return int(error.exit_code)
    except Exception as error:  # noqa: BLE001  a plugin may raise anything; it fails this stage and no other
        traceback.print_exc()
        if _disk_is_full(error):
            _report(report, unwritable(Path(job["store"]), OSError(errno.ENOSPC, str(error))))
            return int(MissingError.exit_code)
        cause = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(cause.filename).name}:{cause.lineno}"
        _report(report, StageError(f"{type(error).__name__}: {error} ({where})"))
        return 1
    return 0


def _run(job: Mapping[str, Any], progress: Path, rank: int) -> None:
    hub.pin(job["commits"])
    store = Store(Path(job["store"]), [Path(p) for p in job["shipped"]])
    key = job["key"]
    if rank:  # it waits for the first rank, which holds the lock, and writes no artifact
        with tempfile.TemporaryDirectory() as nothing:
            _compute(job, store, Path(nothing), progress, rank)
        return
    with locks.held(store.lock(key)):
        if store.find(key) is not None:  # another run computed it while this one waited
            return
        store.forget_attempts(key)
        staging = store.stage_directory(key)
        try:
            facts = _compute(job, store, staging, progress, rank)
            store.commit(staging, job["document"], key, facts)
        except OSError as error:
            raise unwritable(Path(error.filename or store.root), error) from error
        finally:
            if staging.exists():
                import shutil

                shutil.rmtree(staging, ignore_errors=True)


def _compute(job: Mapping[str, Any], store: Store, staging: Path, progress: Path, rank: int) -> dict[str, Any]:
    inputs = {}
    for role, input_key in job["inputs"].items():
        artifact = store.find(input_key)
        if artifact is None:
            raise StageError(f"its input {role} is no longer in the store", "Run the same command again.")
        inputs[role] = artifact
    operation = job["document"]["operation"]
    partial = store.partial(job["key"])
    partial.mkdir(parents=True, exist_ok=True)
    run, attempt = stage_function(operation), Attempt(partial)
    context = Context(
        spec=job["document"]["spec"],
        job=job["job"],
        inputs=inputs,
        out=staging,
        partial=partial,
        device=job["device"],
        registry=plugins(tuple(job["plugins"])),
        counts={},
        cost={},
        notes={},
        _progress=progress,
        budget=Budget(Path(job["spent"]), job["max_cost"] or float("inf")),
        rank=rank,
        ranks=job["ranks"],
        shard=job.get("shard", False),
        rendezvous_file=Path(job["rendezvous_file"]),
        usage=Usage(job["device"], job["threads"], job["ranks"], None if rank else attempt),
    )
    _set_threads(job["threads"], operation)
    try:
        run(context)
    finally:
        context.usage.save(last=True)
    earlier = attempt.earlier()
    made = {"code": provenance.code_hash(), "packages": provenance.packages()}
    return {
        "counts": context.counts,
        "cost": {**context.cost, **context.usage.cost},
        "notes": context.notes,
        "seconds": context.usage.seconds,
        **({"attempts": earlier} if earlier else {}),
        "before": {key: facts for artifact in inputs.values() for key, facts in artifact.facts.items()},
        "provenance": {
            **made,
            "lineage": lineage.extended(made, job["document"], {a.key: a for a in inputs.values()}, store.find),
            "device": provenance.device_name(job["device"]),
            "threads": job["threads"],
            "micro_batch": context.memory_policy.micro_batch,
            **({"checkpointing": True} if context.memory_policy.checkpointing else {}),
            **({"ranks": job["ranks"]} if job["ranks"] > 1 else {}),
            **({"sharded": True} if context.shard else {}),
        },
    }


@functools.cache
def plugins(files: tuple[str, ...] = ()) -> Registry:
    """The installed plugins and these files; the fork server loads the former for all its children."""
    return Registry.load([Path(file) for file in files])


def stage_function(operation: str) -> Callable[[Context], None]:
    """The function that computes an operation."""
    module = import_module(f"plad_bench.execute.stages.{_MODULES.get(operation, operation)}")
    run: Callable[[Context], None] = module.run
    return run


def _set_threads(threads: int, operation: str) -> None:
    if operation in {"train", "generate", "reference", "signals"}:
        import torch

        torch.set_num_threads(threads)


def _disk_is_full(error: Exception) -> bool:
    """Whether a library's own kind of error means that the disk is full."""
    codes = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return any(f"(os error {code})" in str(error) for code in codes)


def _report(path: Path, error: PladBenchError) -> None:
    if path.exists():  # the rank that failed first has reported; the others only lost it
        return
    kinds = {MissingError: "missing", BudgetError: "budget", SkippedError: "skipped"}
    kind = next((kind for error_class, kind in kinds.items() if isinstance(error, error_class)), "failed")
    text = json.dumps({"kind": kind, "message": error.message, "remedy": error.remedy})
    write_atomically(path, text.encode())


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    raise SystemExit(main(*sys.argv[1:]))
