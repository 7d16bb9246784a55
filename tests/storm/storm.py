"""The storm, long form: `python tests/storm/storm.py --moments 10` strikes every fault ten times on each matrix.

It prints the table of docs/reliability.md, and every broken promise with the seed that breaks it again. `--only TEXT`
limits it to faults whose names contain a text, `--matrices fake,paid` to some of the matrices. Ctrl-C ends it with the
table so far.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]

import faults
import world
from standin import endpoint

CONCURRENCY = 4
"""Requests that the endpoint may be answering when a process dies: these can be billed a second time."""


def slow(prompt):
    """An answer that takes a moment, so that a storm finds requests under way."""
    time.sleep(0.03)
    return f"The answer to {prompt}."


@contextmanager
def serving():
    """The endpoint, which says nothing of clients that die."""
    with endpoint(reply=slow) as server:
        server.server.handle_error = lambda *_: None
        yield server


def matrices(server):
    """All of them, by name."""
    every = (world.fake(), world.paid(server), world.real(), world.real(ranks=2))
    return {matrix.name: matrix for matrix in every}


def strike(fault, matrix, seed, place, undisturbed, seconds):
    """Do it once, run the command again, and see that all promises were kept.

    Raises:
        StormError: naming the promise that was broken.
    """
    if matrix.endpoint is not None:
        matrix.endpoint.answered.clear()
        matrix.endpoint.asked.clear()
    one = world.World(matrix, place)
    try:
        kept, lost = fault.strike(one, seconds, random.Random(f"{fault.name} {matrix.name} {seed}"))
        if (code := one.wait(one.start())) != 0:
            raise world.StormError(f"the same command ended with {code} when it was run again: {one.told()}")
        one.check(undisturbed, kept=kept, lost=lost)
        if matrix.endpoint is not None:
            twice = [prompt for prompt, times in matrix.endpoint.answered.items() if times > 1]
            if len(twice) > CONCURRENCY or max(matrix.endpoint.answered.values()) > 2:
                raise world.StormError(f"{len(twice)} answers were bought twice")
    finally:
        one.end_all()
        while os.path.ismount(one.store):
            subprocess.run(["umount", one.store], check=True)


def applies(fault):
    """Whether this machine can do it."""
    return not fault.needs_root or (os.geteuid() == 0 and shutil.which("mount") is not None)


def main():
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=10, help="moments of each fault on each matrix")
    parser.add_argument("--seed", type=int, default=0, help="the first of the seeds")
    parser.add_argument("--only", default="", help="a text in the names of the faults")
    parser.add_argument("--matrices", default="fake,paid,real-1,real-2")
    options = parser.parse_args()
    tried, broken = Counter(), []
    signal.signal(signal.SIGINT, signal.default_int_handler)  # also in the background of a shell
    with contextlib.suppress(KeyboardInterrupt):
        everything(options, tried, broken)
    print(table(tried, broken))
    return 1 if broken else 0


def everything(options, tried, broken):
    """Strike every fault that is asked for, and note what was tried and what broke."""
    with serving() as server, tempfile.TemporaryDirectory(prefix="storm-") as directory:
        places = Path(directory)
        for name in options.matrices.split(","):
            matrix = matrices(server)[name]
            expected, seconds = world.undisturbed(matrix, places / f"{name}-undisturbed")
            for fault in faults.FAULTS.values():
                if name not in fault.matrices or options.only not in fault.name or not applies(fault):
                    continue
                for seed in range(options.seed, options.seed + options.moments):
                    place = places / f"{name}-{len(tried)}-{sum(tried.values())}"
                    try:
                        strike(fault, matrix, seed, place, expected, seconds)
                    except world.StormError as error:
                        broken.append((fault.name, name, seed))
                        print(f"BROKEN {fault.name!r} on {name}, seed {seed}: {error}", flush=True)
                    else:
                        shutil.rmtree(place, ignore_errors=True)
                    tried[fault.name, name] += 1
                print(f"{fault.name} on {name}: {tried[fault.name, name]} tried", file=sys.stderr, flush=True)


def table(tried, broken):
    """What was tried, as Markdown."""
    names = [fault for fault in faults.FAULTS if any(key[0] == fault for key in tried)]
    worlds = list(dict.fromkeys(matrix for _, matrix in tried))
    lines = [f"| fault | {' | '.join(worlds)} | broken |", f"| :-- | {' | '.join('--:' for _ in worlds)} | --: |"]
    for fault in names:
        counts = [str(tried[fault, matrix] or "") for matrix in worlds]
        lines.append(f"| {fault} | {' | '.join(counts)} | {sum(b[0] == fault for b in broken)} |")
    sums = [str(sum(n for (_, m), n in tried.items() if m == matrix)) for matrix in worlds]
    return "\n".join([*lines, f"| all {sum(tried.values())} | {' | '.join(sums)} | {len(broken)} |"])


if __name__ == "__main__":
    raise SystemExit(main())
