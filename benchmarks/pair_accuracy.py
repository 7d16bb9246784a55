"""Whether students find the teacher's text likelier than samples: their own, and those of the SFT initialisation.

    plad-bench run --methods 'sft,seqkd,kd[data=teacher],plad' --board demo
    python benchmarks/pair_accuracy.py

Reads what that run left in the store (seed 0 of the task demo) and prints the tables of docs/findings.md. Likelihoods
are taken one text at a time from the model's logits, without the harness's batches, to check `preference-accuracy`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from plad_bench.cli.options import open_store
from plad_bench.contract.examples import Response
from plad_bench.contract.registry import Registry
from plad_bench.execute.stages.files import MODEL, read_prompts
from plad_bench.learn import models
from plad_bench.learn.generation import Decoding, generate
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose

METHODS = ("sft", "seqkd", "kd[data=teacher]", "plad")
HEAD = (
    "who is asked ",
    "log q(teacher's) ",
    "log q(own) ",
    "least token, teacher's ",
    "least token, own ",
    "teacher's above own ",
    "by sums ",
    "above the SFT initialisation's ",
)
GREEDY, SAMPLED = Decoding(max_new_tokens=80), Decoding(max_new_tokens=80, temperature=0.7, top_k=40, seed=0)


def logprobs(model: Any, encoder: Any, prompts: Sequence[str], responses: Sequence[Response]) -> list[torch.Tensor]:
    """For each text the log-probabilities of its tokens, the end token's last."""
    rows = []
    for prompt, response in zip(prompts, responses, strict=True):
        whole = encoder.sequence(encoder.prompt(prompt), encoder.response(response))
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([whole.prompt + whole.response])).logits[0]
        log_q = logits[len(whole.prompt) - 1 : -1].double().log_softmax(-1)
        rows.append(log_q.gather(1, torch.tensor(whole.response)[:, None])[:, 0])
    return rows


def share(rows: Sequence[Any], others: Sequence[Any], texts: Sequence[tuple[Response, Response]], of: Any) -> float:
    """Percent of the pairs of two different texts whose first is the likelier, by mean or sum `of` its tokens."""
    found = zip(rows, others, texts, strict=True)
    pairs = [(of(a), of(b)) for a, b, (y, z) in found if y.text.split() != z.text.split()]
    return 100 * sum(float(a > b) for a, b in pairs) / len(pairs)


def main() -> None:
    """Print a table for prompts that were trained on and one for others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="default: that of plad-bench")
    parser.add_argument("--prompts", type=int, default=120)
    given = parser.parse_args()
    registry = Registry.load()
    run = spec.build(
        registry,
        task="demo",
        methods=",".join(METHODS),
        student="",
        teacher="",
        pairs="",
        metrics="length",
        seeds=1,
        threads=1,
        overrides={},
    )
    cells = {cell.row: cell for cell in matrix.cells(run, registry)}
    plan, (task,) = cells["plad"].plan, choose(registry, "task", "demo")
    store = open_store(given.store, [task.component.artifacts()])
    stages = {"teacher": plan.teacher_model, "SFT initialisation": plan.sft_init}
    stages |= {f"`{name}`": cells[name].checkpoint for name in METHODS}

    def place(stage: Any) -> Any:
        artifact = store.find(stage.key)
        if artifact is None:
            raise SystemExit(f"{stage.name} is not in the store: see the first command of this file")
        return artifact

    loaded = {name: models.load(place(stage).path / MODEL, "cpu", "float32") for name, stage in stages.items()}
    for split in ("test", "train"):
        prompts = [p.prompt for p in read_prompts(place(plan.data), split, given.prompts)]
        taught = generate(*loaded["teacher"], prompts, GREEDY)
        first = generate(*loaded["SFT initialisation"], prompts, SAMPLED)
        print(f"\n{split}\n")
        print("| ".join(["", *HEAD, ""]).strip())
        print("| :-- " + "| --: " * (len(HEAD) - 1) + "|")
        for name, (model, tokenizer) in loaded.items():
            encoder, own = models.encoder(model, tokenizer), generate(model, tokenizer, prompts, SAMPLED)
            of_taught, of_own, of_first = (logprobs(model, encoder, prompts, y) for y in (taught, own, first))
            means = [sum(float(row.mean()) for row in of) / len(of) for of in (of_taught, of_own)]
            least = [sum(float(row.min()) for row in of) / len(of) for of in (of_taught, of_own)]
            pairs, frozen_pairs = [*zip(taught, own, strict=True)], [*zip(taught, first, strict=True)]
            above, sums = (share(of_taught, of_own, pairs, of) for of in (torch.mean, torch.sum))
            frozen = share(of_taught, of_first, frozen_pairs, torch.mean)
            figures = " | ".join(f"{value:.2f}" for value in (*means, *least))
            print(f"| {name} | {figures} | {above:.0f} % | {sums:.0f} % | {frozen:.0f} % |", flush=True)


if __name__ == "__main__":
    main()
