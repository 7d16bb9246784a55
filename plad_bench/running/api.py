"""The Python API: run a comparison, and get its board."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypedDict

from plad_bench.contract.errors import PluginError, UsageError
from plad_bench.plan.defaults import DEMO_METHODS

if TYPE_CHECKING:
    from typing import Unpack

    from plad_bench.contract.registry import Registry
    from plad_bench.leaderboard.board import Board
    from plad_bench.running.execution import Listener


RERUN = ("missing", "failed", "stale", "all")
"""What a run may execute."""


class ProtocolSettings(TypedDict, total=False):
    """Settings of the protocol (docs/records.md): those left out are the board's, or else the defaults."""

    steps: int
    budget: str
    lr: float
    batch: int
    sft_steps: int
    sft_lr: float
    max_new_tokens: int
    precision: Literal["float32", "bf16"]
    lora: int
    optimizer: Literal["adamw", "adamw8bit"]
    teacher_logprobs: str
    split: Literal["test", "validation"]
    teach_temperature: float
    sample_temperature: float
    top_k: int
    samples: int
    evaluate_at: str
    evaluate_samples: int
    evaluate_temperature: float
    tune: int
    limit: int
    backend: Literal["auto", "transformers", "vllm"]
    rollouts: Literal["transformers", "vllm"]


def load_registry(plugins: Sequence[Path] = ()) -> Registry:
    """All installed plugins and these files.

    Raises:
        PluginError: if one of the files cannot be loaded.
    """
    from plad_bench.contract.registry import Registry

    registry = Registry.load(plugins)
    for broken in registry.broken:
        if broken.origin.distribution in {file.name for file in plugins}:
            raise PluginError(
                f"plugin file {broken.origin.distribution} cannot be loaded: {broken.cause}", "Repair it."
            )
    return registry


def run(
    *,
    methods: str = DEMO_METHODS,
    controls: bool = False,
    checkpoints: Sequence[str] = (),
    student: str | None = None,
    teacher: str | None = None,
    task: str | None = None,
    pairs: str | None = None,
    metrics: str | None = None,
    seeds: int | None = None,
    board: str | None = None,
    boards_dir: Path | str | None = None,
    store: Path | str | None = None,
    threads: int = 1,
    rerun: Literal["missing", "failed", "stale", "all"] = "missing",
    force: bool = False,
    launcher: str = "local",
    gpus: str | None = None,
    workers: int | None = None,
    ranks: int = 1,
    shard: bool = False,
    teacher_gpus: int = 1,
    retries: int = 1,
    max_failures: int = 0,
    max_cost: float | None = None,
    timeout: float = 0.0,
    plugins: Sequence[Path | str] = (),
    listener: Listener | None = None,
    **settings: Unpack[ProtocolSettings],
) -> Board:
    """Run a comparison and render its board, as the command `plad-bench run` with the same options does.

    Records, pages and the store are those of the command: each resumes what the other began. Nothing is printed. Cells
    that failed are among the `unranked` of the board's groups, and are executed again by the next call.

    Args:
        methods: method selectors; or all, or none.
        controls: whether to run the controls as well.
        checkpoints: models trained elsewhere, each as "NAME=DIR".
        student: student selectors; None for the task's.
        teacher: teacher selectors; None for the student's.
        task: task selectors; None for the demo, or tldr for pretrained students.
        pairs: pair-builder selectors.
        metrics: metric selectors, of which the first ranks a new board; None for the task's.
        seeds: number of seeds; None for the board's, or 1.
        board: name of the board; None for the one that the command would choose.
        boards_dir: directory of the boards; None for PLAD_BENCH_BOARDS_DIR, or leaderboards.
        store: directory of the artifact store; None for PLAD_BENCH_STORE, or the user's cache directory.
        threads: per CPU slot.
        rerun: which cells to execute.
        force: whether to accept settings that are refused otherwise.
        launcher: launcher selector.
        gpus: indices such as "0,1"; "none" for the CPU; None for all GPUs.
        workers: concurrent CPU stages; None for as many as there are slots.
        ranks: processes per training.
        shard: whether they divide the trained model, its gradients and its optimiser state among them (FSDP).
        teacher_gpus: slots of each stage in which vLLM runs the teacher, divided among them.
        retries: of a stage that was killed.
        max_failures: failures after which no new work begins; 0 for no limit.
        max_cost: limit on the cost of requests, in the currency of their prices; None for no limit.
        timeout: seconds after which a stage is stopped; 0 for no limit.
        plugins: plugin files to load beside the installed ones.
        listener: hears of the progress.
        settings: of the protocol, such as `steps=100`, `budget="tokens=5M"` or `tune=8`.

    Raises:
        UsageError: for an unknown name, an option out of range, or a board with other settings.
        MissingError: if a model, a data set, a package or a GPU is missing.
        NothingSelectedError: if there is nothing to run.
        StageError: if the data cannot be used.
        PluginError: if a plugin file cannot be loaded.
    """
    import platformdirs

    from plad_bench.contract import training_budget
    from plad_bench.contract.protocol import checked
    from plad_bench.contract.protocol import settings as declared
    from plad_bench.leaderboard.loading import load
    from plad_bench.running.execution import Listener, execute
    from plad_bench.running.setup import gpus_of, prepare_run

    given: dict[str, Any] = {k: v for k, v in settings.items() if v is not None and (k, v) != ("backend", "auto")}
    training_budget.check(given)
    if rerun not in RERUN:
        raise UsageError(f"rerun is {rerun!r}", f"Give {', '.join(RERUN[:-1])} or {RERUN[-1]}.")
    counts = {"seeds": seeds, "threads": threads, "workers": workers, "ranks": ranks, "teacher_gpus": teacher_gpus}
    for name, value in counts.items():
        if value is not None and value < 1:
            raise UsageError(f"{name} is {value}", "Give 1 or more.")
    options: dict[str, Any] = {
        **dict.fromkeys(declared()),
        **checked(given),
        **({"backend": "auto"} if settings.get("backend") == "auto" else {}),
        "methods": methods,
        "controls": controls,
        "checkpoints": tuple(checkpoints),
        "student": student,
        "teacher": teacher,
        "task": task,
        "pairs": pairs,
        "metrics": metrics,
        "seeds": seeds,
        "board": board,
        "boards_dir": Path(boards_dir or os.environ.get("PLAD_BENCH_BOARDS_DIR") or "leaderboards"),
        "store": Path(store or os.environ.get("PLAD_BENCH_STORE") or platformdirs.user_cache_dir("plad-bench")),
        "threads": threads,
        "rerun": rerun,
        "force": force,
        "launcher": launcher,
        "workers": workers,
        "gpus": gpus,
        "ranks": ranks,
        "shard": shard,
        "teacher_gpus": teacher_gpus,
        "retries": retries,
        "max_failures": max_failures,
        "max_cost": max_cost,
        "timeout": timeout,
    }
    registry, devices = load_registry([Path(file) for file in plugins]), gpus_of(options)
    planned = prepare_run(registry, options, devices)
    arguments = next(iter(planned.commands.values()))
    execute(planned, registry, options, devices, arguments=arguments, listener=listener or Listener())
    return load(planned.directory)
