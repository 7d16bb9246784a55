"""What a matrix of methods and seeds saves over separate runs, and what the harness itself costs.

Run `python benchmarks/matrix.py` on Linux (with the default steps about ten minutes of processor time; `--steps 30
--sft-steps 60` takes a quarter); it prints the table of docs/benchmarks.md. All figures are processor seconds of all
processes of a command, so other work on the machine counts little.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from plad_bench.records import ledger

PROGRAM = (sys.executable, "-m", "plad_bench")
METHODS = "sft,seqkd,kd,plad"
_SUBREAPER = 36
"""PR_SET_CHILD_SUBREAPER: processes whose parent has ended become children of this one, which can count them."""


def spent(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, str]:
    """Processor seconds of a command with all its descendants, and what it printed."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [*PROGRAM, *arguments], env={**os.environ, **environment}, stdout=subprocess.PIPE, text=True, check=True
    )
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def makespan(stages: Sequence[str], inputs: Mapping[str, set[str]], costs: Mapping[str, float], slots: int) -> float:
    """When the last stage ends if each of the slots takes the first stage whose inputs are done."""
    ends: dict[str, float] = {}
    running: dict[str, float] = {}
    now, waiting = 0.0, list(stages)
    while waiting or running:
        for key in [key for key in waiting if inputs[key] <= ends.keys()][: slots - len(running)]:
            waiting.remove(key)
            running[key] = now + costs[key]
        first = min(running, key=lambda key: running[key])
        now = ends[first] = running.pop(first)
    return now


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--steps", default="300")
    options.add_argument("--sft-steps", default="600")
    options.add_argument("--seeds", default="3")
    given = options.parse_args()
    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)
    with tempfile.TemporaryDirectory() as directory:
        place = Path(directory)
        environment = {"PLAD_BENCH_STORE": f"{place}/store", "PLAD_BENCH_BOARDS_DIR": f"{place}/boards"}
        budget = ["--steps", given.steps, "--sft-steps", given.sft_steps, "--gpus", "none", "--seeds", given.seeds]
        command = ["run", "--methods", METHODS, *budget, "--board", "matrix", "--workers", "2"]
        whole, _ = spent(command, environment)
        again, _ = spent(command, environment)
        executed = ledger.read(place / "boards" / "matrix").values()
        costs = {e.key: e.cost["processor_seconds"] for e in executed if not e.failed}
        own = sum(e.cost.get("processor_seconds", 0.0) for e in executed)
        single = 0.0
        for method in METHODS.split(","):
            _, planned = spent(["plan", "--methods", method, *budget, "--board", method, "--json"], environment)
            single += sum(costs.get(stage["key"], 0.0) for stage in json.loads(planned)["stages"])
        inputs = {}
        for manifest in (place / "store").glob("artifacts/*/*/manifest.json"):
            document = json.loads(manifest.read_text(encoding="utf-8"))
            inputs[document["key"]] = costs.keys() & set(document["document"]["inputs"].values())
        two = makespan([*costs], inputs, costs, 2)
        rows = [
            (f"stages of {METHODS}, {given.seeds} seeds", f"{own:.1f} s, {len(costs)} stages"),
            ("the same methods one by one, with an empty store each", f"{single:.1f} s"),
            ("ratio", f"{own / single:.2f}"),
            ("harness: everything else", f"{whole - own:.1f} s, {100 * (whole - own) / whole:.1f} % of the run"),
            ("two slots against one (schedule of these stages)", f"{sum(costs.values()) / two:.2f} x"),
            ("the finished matrix again", f"{again:.2f} s"),
            ("--help", f"{min(spent(['--help'], environment)[0] for _ in range(5)):.2f} s"),
        ]
        for metrics in ("rouge-l", ""):
            wide = ["plan", "--methods", "all", "--seeds", "400", "--board", "wide", "--gpus", "none"]
            seconds, _ = spent([*wide, *(["--metrics", metrics] if metrics else [])], environment)
            rows.append((f"plan of 10,401 cells, {metrics or 'the ten metrics of demo'}", f"{seconds:.1f} s"))
    print("| what | processor time |\n| :-- | --: |")
    for what, value in rows:
        print(f"| {what} | {value} |")


if __name__ == "__main__":
    main()
