"""How sure models are that a text is over, where the teacher's texts and the student's own samples end.

    plad-bench run --methods opd,rkl,minillm,seqkd --board demo-all-untuned
    python benchmarks/end_token.py

Reads what that run left in the store (seed 0 of the task demo) and prints the table of docs/findings.md: the mean
probability of the end token at the end of finished texts on the first training prompts.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from plad_bench.cli.options import open_store
from plad_bench.contract.registry import Registry
from plad_bench.execute.stages.files import MODEL, read_prompts, read_responses
from plad_bench.learn import models
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose

METHODS = ("seqkd", "minillm", "rkl", "opd")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, help="default: that of plad-bench")
    parser.add_argument("--prompts", type=int, default=200)
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
    plan, (task,) = cells["opd"].plan, choose(registry, "task", "demo")
    store = open_store(given.store, [task.component.artifacts()])

    def place(stage: object) -> object:
        artifact = store.find(stage.key)
        if artifact is None:
            raise SystemExit(f"{stage.name} is not in the store: see the first command of this file")
        return artifact

    prompts = read_prompts(place(plan.data), "train", given.prompts)
    texts = [read_responses(place(stage), prompts) for stage in (plan.teach, plan.sample)]
    stages = {"teacher": plan.teacher_model, "SFT initialisation": plan.sft_init}
    stages |= {f"`{name}`": cells[name].checkpoint for name in METHODS}
    print(
        "| who is asked | after the teacher's text | after the SFT initialisation's own sample |\n| :-- | --: | --: |"
    )
    for name, stage in stages.items():
        model, tokenizer = models.load(place(stage).path / MODEL, "cpu", "float32")
        encoder, means = models.encoder(model, tokenizer), []
        for responses in texts:
            found = []
            for prompt in prompts:
                response = responses[prompt.id][0]
                if response.finished:
                    whole = encoder.sequence(encoder.prompt(prompt.prompt), encoder.response(response))
                    with torch.no_grad():
                        logits = model(input_ids=torch.tensor([whole.prompt + whole.response])).logits[0, -2]
                    found.append(float(logits.softmax(-1)[tokenizer.eos_token_id]))
            means.append(sum(found) / len(found))
        print(f"| {name} | {means[0]:.3f} | {means[1]:.3f} |", flush=True)


if __name__ == "__main__":
    main()
