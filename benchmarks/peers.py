"""A training step of plad-bench beside the same step of TRL and of a plain PyTorch loop.

    python benchmarks/peers.py                                   # a CPU: 5 M teacher, 1 M student, some minutes
    python benchmarks/peers.py --device cuda --shape 1b          # a GPU of 80 GB: 3 B teacher, 1 B student, bf16
    python benchmarks/peers.py --shape 49k --steps sft,kd        # SmolLM2's words and width on a CPU, 2 to 4 layers
    python benchmarks/peers.py --shape 49k --vocabulary 151936 --tokens 64 --steps sft,kd   # the words of Qwen
    python benchmarks/peers.py --steps sft,gkd --sides loop,ours --json peers.json

All sides get the same initial weights, the same sequences (random tokens; one global batch, again and again), AdamW,
clipping and, on a GPU, float32 weights under bf16 autocast, without activation checkpointing. The loss of the first
step is printed so that one sees that the work is the same (on-policy text is sampled, so there it is alike only). The
peak of memory is that of the device's allocator, or on Linux of the process; beside it is what plan/resources.py
estimates for ours with the teacher in memory. The sides take turns within one process. A time is the median over all
steps but the first two of each turn: processor time on a CPU, wall-clock time on a GPU. `dpo` has its reference log-
probabilities precomputed on all sides.

The plain loop makes logits of response tokens alone, as plad-bench does: it is what a step costs at least without
chunking. On-policy it reads and samples as many tokens as there may be, with the model's own cache of keys and values.
TRL (1.16) is a side where it is importable; forward KL is its GKD with beta 0, and it has no PLaD. Its on-policy loss
is divided by the tokens of the given text, not by those that it sampled.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import logging
import os
import platform
import statistics
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from peers_loop import loop
from peers_ours import ours
from peers_trl import trl
from peers_work import SHAPES, Turn, Work
from warned import warnings_after

from plad_bench.execute import outlook
from plad_bench.plan import resources, shapes

STEPS = {
    "sft": "SFT on given text",
    "kd": "forward KL on given text",
    "jsd": "JSD (beta 0.5) on given text",
    "dpo": "DPO, reference precomputed",
    "plad": "PLaD (rank, sums, anchor)",
    "gkd": "JSD (beta 0.5) on-policy",
}
SIDES = {"loop": loop, "ours": ours, "trl": trl}


def turns(step: str, side: str, work: Work, given: argparse.Namespace) -> Turn | None:
    """One turn of one side, with its peak memory where the device tells."""
    forget_peak(work)
    made = SIDES[side](step, work, given.count)
    if made is not None:
        made.bytes = peak(work)
    return made


def forget_peak(work: Work) -> None:
    """Give unused memory back, and begin to measure its peak."""
    gc.collect()
    if work.cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")


def peak(work: Work) -> int:
    """The peak in bytes; 0 if it is unknown."""
    if work.cuda:
        return torch.cuda.max_memory_allocated()
    if sys.platform != "linux":
        return 0
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def estimated(step: str, work: Work) -> float:
    """What plan/resources.py estimates for a step of ours, in bytes."""
    student, teacher = (
        shapes.shape_of({**work.shape[role], "vocab_size": work.shape["vocabulary"], "tie_word_embeddings": True})
        for role in ("student", "teacher")
    )
    pairs = 2 if step in {"dpo", "plad"} else 1
    lengths = [len(r) for _, r in [*work.sequences, *(work.rejected if pairs == 2 else [])]]
    prompt, response = work.shape["prompt"], sum(lengths) / len(lengths)
    device = outlook.gpu(0) if work.cuda else outlook.cpu(torch.get_num_threads())
    return resources.training(
        resources.TrainingWork(
            student=student, steps=1, batch=pairs * len(work.sequences),
            lengths=resources.Lengths(prompt, response, prompt + max(lengths)), bf16=work.cuda,
            teacher=teacher, teacher_logits=step in {"kd", "jsd", "gkd"}, pairs=pairs > 1,
        ),
        device,
    ).memory  # fmt: skip


def figures(given: argparse.Namespace, work: Work) -> Iterator[dict[str, Any]]:
    """A row for each step, as soon as it is measured."""
    for step in given.steps:
        made: dict[str, list[Turn]] = {side: [] for side in given.sides}
        failed: dict[str, str] = {}
        for _ in range(given.turns):
            for side in given.sides:
                try:
                    turn = turns(step, side, work, given) if side not in failed else None
                except Exception as error:  # noqa: BLE001  a side that fails must not cost the others' figures
                    failed[side] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
                    turn = None
                made[side] += [turn] if turn is not None else []
        row: dict[str, Any] = {"step": step, "failed": failed}
        for side, them in made.items():
            if them:
                seconds = [s for turn in them for s in turn.seconds[2:]]
                row[side] = {
                    "seconds": statistics.median(seconds),
                    "quartiles": statistics.quantiles(seconds, n=4)[::2] if len(seconds) > 1 else seconds * 2,
                    "loss": them[0].loss,
                    "bytes": max(turn.bytes for turn in them),
                }
        row["estimate"] = estimated(step, work)
        yield row


def line(row: dict[str, Any], sides: Sequence[str]) -> str:
    """A row of the table."""

    def of(side: str, show: Callable[[dict[str, Any]], str]) -> str:
        return show(row[side]) if side in row else row["failed"].get(side, "-")

    def ratio(side: str) -> str:
        return f"{row['ours']['seconds'] / row[side]['seconds']:.2f}" if {"ours", side} <= row.keys() else "-"

    cells = [of(s, lambda v: f"{v['seconds']:.3f} ({v['quartiles'][0]:.3f}-{v['quartiles'][1]:.3f})") for s in sides]
    ratios = [ratio(side) for side in sides if side != "ours"]
    losses = " / ".join(of(s, lambda v: f"{v['loss']:.4f}") for s in sides)
    memory = " / ".join(of(s, lambda v: f"{v['bytes'] / 1e9:.1f}") for s in sides)
    estimate = f"{row['estimate'] / 1e9:.1f}"
    return f"| {STEPS[row['step']]} | " + " | ".join([*cells, *ratios, losses, memory, estimate]) + " |"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--shape", default="tiny", choices=SHAPES)
    parser.add_argument("--steps", default=",".join(STEPS), help="which of them: " + ", ".join(STEPS))
    parser.add_argument("--sides", default=",".join(SIDES))
    parser.add_argument("--count", type=int, default=8, help="steps of a turn; the first two are not counted")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, help="tokens of an on-policy response; default: the response length")
    parser.add_argument("--vocabulary", type=int, help="number of words; default: the shape's")
    parser.add_argument("--tokens", type=int, help="of a sequence, a quarter of them its prompt; default: the shape's")
    parser.add_argument("--threads", type=int, default=1, help="on a CPU")
    parser.add_argument("--json", type=Path, help="write all figures there, too")
    given = parser.parse_args()
    given.steps = given.steps.split(",")
    given.sides = [side for side in given.sides.split(",") if side != "trl" or importlib.util.find_spec("trl")]
    warnings.simplefilter("ignore")
    logging.getLogger().setLevel(logging.ERROR)
    logging.getLogger("plad_bench").setLevel(logging.WARNING)
    torch.set_num_threads(given.threads)
    shape = dict(SHAPES[given.shape])
    shape["vocabulary"] = given.vocabulary or shape["vocabulary"]
    if given.tokens:
        shape |= {"prompt": given.tokens // 4, "response": given.tokens - given.tokens // 4}
    work = Work(shape, given.device, given.new_tokens or shape["response"])
    device = torch.cuda.get_device_name(0) if work.cuda else f"CPU ({platform.machine()}, {given.threads} threads)"
    packages = ("torch", "transformers", *(["trl"] if "trl" in given.sides else []))
    versions = {name: importlib.metadata.version(name) for name in packages}
    sizes = f"batch {shape['batch']}, prompts of {shape['prompt']}, responses of at most {shape['response']} tokens"
    state = f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores as it began"
    print(f"{device}; {', '.join(f'{name} {version}' for name, version in versions.items())}; {state}.")
    print(f"Shape {given.shape}: {sizes}, {shape['vocabulary']:,} words.\n")
    against = [f"ours / {side}" for side in given.sides if side != "ours"]
    head = ["step", *(f"{side} s" for side in given.sides), *against, "first loss", "peak memory GB", "estimate GB"]
    print(f"| {' | '.join(head)} |\n| :-- " + "| --: " * (len(head) - 1) + "|", flush=True)
    rows = []
    with warnings_after():
        for row in figures(given, work):
            rows.append(row)
            print(line(row, given.sides), flush=True)
            if given.json:
                given.json.write_text(
                    json.dumps({"device": device, "versions": versions, "state": state, "rows": rows}, indent=1) + "\n"
                )


if __name__ == "__main__":
    main()
