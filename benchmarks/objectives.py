"""Time and peak memory of a kd step and a plad step, chunked against dense, by size of the vocabulary.

    python benchmarks/objectives.py                        # this machine's CPU, a few minutes
    python benchmarks/objectives.py --device cuda --width 2048 --layers 16 --length 512

Random weights and tokens. A step is the forward and backward pass of one micro-batch; kd's includes the teacher's
forward pass. Dense is the model's own logits, [B, T, V]; chunked takes hidden states through the output head. Each
cell is a process of its own, and the two modes take turns. A time is processor time on a CPU (one thread) and
wall-clock time on a GPU. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

MODES = ("dense", "chunked")


def model(vocabulary: int, width: int, layers: int, device: str, dtype: str) -> object:
    """A Llama with random weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=max(1, width // 64),
        num_key_value_heads=max(1, width // 64),
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    return LlamaForCausalLM(config).to(device=device, dtype=getattr(torch, dtype))


def measure(given: argparse.Namespace) -> None:
    """Run one cell and print its figures as JSON."""
    import torch

    from plad_bench.contract.objectives import TokenObjective
    from plad_bench.contract.registry import Registry
    from plad_bench.learn.chunked_logits import Predictor
    from plad_bench.learn.objectives import PairLoss, TokenLoss
    from plad_bench.learn.sequences import Tokens, collate

    registry = Registry.load()
    method = registry.get("method", given.method)
    params = registry.configure(method, {})
    cuda = given.device == "cuda"
    torch.set_num_threads(1)
    student = model(given.vocabulary, given.width, given.layers, given.device, "float32")
    generator = torch.Generator().manual_seed(1)

    def sequence() -> Tokens:
        length = int(torch.randint(given.length // 2, given.length + 1, (), generator=generator))
        ids = torch.randint(0, given.vocabulary, (given.prompt + length,), generator=generator).tolist()
        return Tokens(ids[: given.prompt], ids[given.prompt :])

    batch = collate([sequence() for _ in range(given.batch)], 0, given.device)
    tokens = int(batch.valid.sum())
    if isinstance(method.objective, TokenObjective):
        teacher = model(given.vocabulary, given.width, given.layers, given.device, "float32")
        teacher.eval().requires_grad_(False)  # noqa: FBT003  torch's own signature
        loss = TokenLoss(student, teacher, params, rows=given.rows)
        predictors = tuple(filter(None, (loss.predictor, loss.teacher_predictor)))
        arguments = {"term": method.objective.terms[0], "batch": batch, "total": tokens}
    else:
        loss = PairLoss(student, method.objective, params, rows=given.rows)
        predictors, arguments = (loss.predictor,), {"batch": batch, "scores": {}, "total": given.batch // 2}

    for predictor in predictors if given.mode == "dense" else ():
        predictor.agreed = False  # leaves logits to the model

    def step() -> None:
        with torch.autocast(given.device, torch.bfloat16, enabled=cuda):
            value, _ = loss(**arguments)
        value.backward()
        loss.zero_grad(set_to_none=True)
        if cuda:
            torch.cuda.synchronize()

    before = torch.cuda.memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    step()
    seconds, now = [], time.perf_counter if cuda else time.process_time
    for _ in range(given.repeats):
        start = now()
        step()
        seconds.append(now() - start)
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    chunk = Predictor(student, given.rows).constant(batch).chunk
    print(json.dumps({"seconds": statistics.median(seconds), "bytes": peak - before, "tokens": tokens, "chunk": chunk}))


def table(given: argparse.Namespace) -> None:
    """Run all cells, each mode `turns` times, and print the medians."""
    one, other = MODES
    print(f"| step | vocabulary | {one} s | {other} s | time | {one} MB | {other} MB | memory | chunks |")
    print("| :-- | --: | --: | --: | --: | --: | --: | --: | --: |")
    for method in given.methods.split(","):
        for vocabulary in given.vocabularies:
            found: dict[str, list[dict[str, float]]] = {mode: [] for mode in MODES}
            for _ in range(given.turns):
                for mode in MODES:
                    found[mode].append(cell(given, method, vocabulary, mode))
            (base_s, s), (base_b, b) = (
                [statistics.median(run[what] for run in found[mode]) for mode in MODES] for what in ("seconds", "bytes")
            )
            last = found[other][0]
            chunks = -(-last["tokens"] // max(1, last["chunk"]))
            print(
                f"| {method} | {vocabulary:,} | {base_s:.2f} | {s:.2f} | {s / base_s:.2f} "
                f"| {base_b / 1e6:,.0f} | {b / 1e6:,.0f} | {b / base_b:.2f} | {chunks:.0f} |",
                flush=True,
            )


def cell(given: argparse.Namespace, method: str, vocabulary: int, mode: str) -> dict[str, float]:
    """One measurement, in a process of its own."""
    passed = ["device", "batch", "prompt", "length", "width", "layers", "rows", "repeats"]
    options = [f"--{name}={getattr(given, name)}" for name in passed]
    command = [sys.executable, __file__, *options, "--mode", mode, "--method", method, "--vocabulary", str(vocabulary)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    measured: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return measured


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--methods", default="kd,plad")
    parser.add_argument("--vocabularies", type=int, nargs="+", default=[4096, 32768, 131072])
    parser.add_argument("--batch", type=int, default=16, help="sequences of a micro-batch")
    parser.add_argument("--prompt", type=int, default=64, help="tokens of a prompt")
    parser.add_argument("--length", type=int, default=128, help="most tokens of a response; the least are half of it")
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    parser.add_argument("--rows", type=int, default=0, help="tokens of a chunk; 0: as the device has room")
    parser.add_argument("--repeats", type=int, default=5, help="steps timed in a process, after one that is not")
    parser.add_argument("--turns", type=int, default=3, help="processes for each mode")
    parser.add_argument("--mode", choices=MODES, help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--vocabulary", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.mode:
        measure(given)
    else:
        table(given)


if __name__ == "__main__":
    main()
