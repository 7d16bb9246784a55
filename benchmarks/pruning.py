"""What is left of a model before any training, pruned in several ways: its loss on texts that chose nothing.

    python benchmarks/pruning.py MODEL_DIRECTORY e2e-clean/devel-fixed.no-ol.csv

Prints the parameters and the loss in nats per token on 40 rows of the file ("mr", line break, "ref"). Layers and
neurons are measured on 64 other rows.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import torch

from plad_bench.learn import models, pruning

TOKENS = 128


def main() -> None:
    """Read the command line, and print a line for each way of pruning."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("file", type=Path)
    given = parser.parse_args()
    with given.file.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    random.Random(0).shuffle(rows)
    model, tokenizer = models.load(given.model, "cpu", "float32")
    texts = [tokenizer(f"{row['mr']}\n{row['ref']}")["input_ids"][:TOKENS] for row in rows[:140]]
    importance = pruning.measured(model, texts[:64])
    layers, inner = model.config.num_hidden_layers, model.config.intermediate_size
    print(f"whole: {described(model, texts[100:])}", flush=True)
    for count in (layers * 4 // 5, layers * 2 // 5):
        for by in ("spacing", "similarity"):
            model, _ = models.load(given.model, "cpu", "float32")
            pruning.prune(model, str(count), importance if by == "similarity" else None)
            print(f"layers={count},by={by}: {described(model, texts[100:])}", flush=True)
    for width in (inner * 2 // 3, inner // 2):
        shuffled = [torch.rand_like(neurons) for neurons in importance.neurons]
        for name, neurons in (("by activation", importance.neurons), ("at random", shuffled)):
            model, _ = models.load(given.model, "cpu", "float32")
            pruning.narrow(model, width, neurons)
            print(f"width={width}, {name}: {described(model, texts[100:])}", flush=True)


def described(model: torch.nn.Module, texts: list[list[int]]) -> str:
    """Parameters and loss."""
    total = count = 0.0
    with torch.no_grad():
        for ids in texts:
            given = torch.tensor([ids])
            total += float(model(input_ids=given, labels=given).loss) * (len(ids) - 1)
            count += len(ids) - 1
    return f"{sum(p.numel() for p in model.parameters()):,} parameters, {total / count:.2f} nats per token"


if __name__ == "__main__":
    main()
