"""Time and memory of rendering large boards, and what docs/statistics.md says of them.

Run `python benchmarks/board.py` (a few minutes, mostly for making the records); it prints the table of that page. Each
board is rendered in a process of its own. Seconds are of the processor: what else the machine does is not counted.
"""

from __future__ import annotations

import json
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from plad_bench.records import schema, storage

BOARDS = {
    "2,000 methods, 5 seeds": (1, 2000, 5, 2, 300),
    "25 tasks of 80 methods, 5 seeds": (25, 80, 5, 10, 300),
    "10 methods, 5 seeds, 100,000 examples": (1, 10, 5, 2, 100_000),
}
"""Name -> tasks, methods, seeds, metrics, examples."""


def make(board: Path, shape: tuple[int, int, int, int, int]) -> int:
    """Write a board of random scores; the number of its records."""
    tasks, methods, seeds, metrics, examples = shape
    rng = np.random.default_rng(0)
    ids = [f"{k:016x}" for k in range(examples)]
    for task in range(tasks):
        for method in range(methods):
            for seed in range(seeds):
                columns = {f"metric-{k}": rng.random(examples) for k in range(metrics)}
                _write(board, (f"task-{task}", f"method-{method}", seed), ids, columns)
    (board / "board.toml").write_text("", encoding="utf-8")
    return tasks * methods * seeds


def _write(board: Path, place: tuple[str, str, int], ids: list[str], columns: dict[str, np.ndarray]) -> None:
    import hashlib

    task, method, seed = place
    cell = f"{task}/student+teacher/{method}/seed-{seed}"
    data = storage.scores_bytes(ids, columns)
    summaries = {name: storage.summarise(values) for name, values in columns.items()}
    named = {"params": {}, "version": 1, "plugin": "benchmark"}
    record = schema.Record(
        cell=cell,
        key=hashlib.sha256(cell.encode()).hexdigest(),
        status="done",
        seed=seed,
        task=schema.TaskPart(name=task, selector=task, licence="none", redistributable=False, **named),
        teacher=schema.Named(name="teacher", selector="teacher", **named),
        student=schema.Named(name="student", selector="student", **named),
        method=schema.MethodPart(
            name=method, selector=method, access="text", paper="none", lr=0.001, lr_shared=True, **named
        ),
        protocol={"steps": 300},
        metrics={
            name: schema.MetricPart(value=value, n=n, stderr=stderr, better="higher", unit="%", key="0" * 64)
            for name, (value, n, stderr) in summaries.items()
        },
        scores=schema.ScoresPart(
            file=f"seed-{seed}.scores.parquet", sha256=hashlib.sha256(data).hexdigest(), examples=len(ids)
        ),
        cost={"train_device_seconds": 30.0 + seed, "teacher_device_seconds": 14.0},
    )
    path = board / "cells" / f"{cell}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(storage.dumps(record), encoding="utf-8")
    (path.parent / f"seed-{seed}.scores.parquet").write_bytes(data)


def render(board: Path, report: Path) -> None:
    """Render a board and note seconds and bytes; the whole life of a fresh process."""
    from plad_bench.render.write import render_board

    files = render_board(board)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    page = sum(map(len, files.values()))
    report.write_text(json.dumps([time.process_time(), peak, page]), encoding="utf-8")


def main() -> None:
    """Print the table."""
    print("| Board | Records | Metrics | Examples | Seconds | Memory (MB) | Page (MB) |")
    print("| :-- | --: | --: | --: | --: | --: | --: |")
    for name, shape in BOARDS.items():
        with tempfile.TemporaryDirectory() as directory:
            board, report = Path(directory, "board"), Path(directory, "report")
            records = make(board, shape)
            process = multiprocessing.get_context("spawn").Process(target=render, args=(board, report))
            process.start()
            process.join()
            seconds, peak, page = json.loads(report.read_text(encoding="utf-8"))
        shown = (
            name,
            f"{records:,}",
            shape[3],
            f"{shape[4]:,}",
            f"{seconds:.1f}",
            f"{peak / 1e6:.0f}",
            f"{page / 1e6:.1f}",
        )
        print("| " + " | ".join(map(str, shown)) + " |")


if __name__ == "__main__":
    main()
