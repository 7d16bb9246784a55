"""Where the time of plad-bench's training steps goes, part by part.

    python benchmarks/parts.py                                          # on a CPU, a few minutes
    python benchmarks/parts.py --device cuda --shape 1b --steps kd,gkd

Models, texts and steps are those of benchmarks/peers.py. A time is processor time on a CPU (one thread) and wall-clock
time on a GPU, the median over the steps but the first two. `head and loss` has the logits of both models, the loss and,
where there are several chunks, their gradient; `gradient` is the rest of the backward pass. Prints Markdown.
"""

from __future__ import annotations

import argparse
import logging
import statistics
import warnings
from collections import defaultdict

import torch
from peers import STEPS
from peers_ours import ours
from peers_work import SHAPES, Clock, Work
from sampling import watching

from plad_bench.learn import objectives, rollouts, sequences

PARTS = [
    (rollouts.Rollouts, "sample", "sampling"),
    (sequences, "collate", "collation"),
    (objectives.TokenLoss, "_teacher", "teacher's body"),
    (objectives.Predictor, "__call__", "bodies"),
    (objectives, "summed", "head and loss"),
    (objectives, "label_logprobs", "head and loss"),
    (torch.Tensor, "backward", "gradient"),
    (torch.nn.utils, "clip_grad_norm_", "clipping"),
    (torch.optim.AdamW, "step", "AdamW"),
]
"""(place, function, part); the teacher's body is in `bodies`, too, and taken out of it."""
COLUMNS = (
    "sampling",
    "collation",
    "student's body",
    "teacher's body",
    "head and loss",
    "gradient",
    "clipping",
    "AdamW",
)


def measured(step: str, work: Work, count: int) -> tuple[float, dict[str, float]]:
    """Median seconds of a step, and of its parts."""
    spent: dict[str, float] = defaultdict(float)
    steps: list[dict[str, float]] = []
    tick = Clock.tick

    def ticked(clock: Clock) -> None:
        tick(clock)
        steps.append(dict(spent))
        spent.clear()

    Clock.tick = ticked  # type: ignore[method-assign]
    try:
        with watching(PARTS, spent, work.device):
            turn = ours(step, work, count)
    finally:
        Clock.tick = tick  # type: ignore[method-assign]
    for one in steps:
        one["student's body"] = one.get("bodies", 0) - one.get("teacher's body", 0)
    parts = {name: statistics.median(one.get(name, 0) for one in steps[2:]) for name in COLUMNS}
    return statistics.median(turn.seconds[2:]), parts


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them: " + ", ".join(STEPS))
    parser.add_argument("--count", type=int, default=8, help="steps; the first two are not counted")
    given = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    work = Work(SHAPES[given.shape], given.device, SHAPES[given.shape]["response"])
    print(f"| step | s | {' | '.join(COLUMNS)} | rest |\n| :-- |{' --: |' * (len(COLUMNS) + 2)}", flush=True)
    for step in given.steps.split(","):
        whole, parts = measured(step, work, given.count)
        shares = [*parts.values(), max(0.0, whole - sum(parts.values()))]
        print(
            f"| {STEPS[step]} | {whole:.3f} | {' | '.join(f'{100 * s / whole:.0f} %' for s in shares)} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
