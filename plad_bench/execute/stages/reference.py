"""The reference stage: log-probabilities of every pair under the frozen warm-started student."""

from __future__ import annotations

import json

from plad_bench.execute.stages.files import LOGPROBS, MODEL, read_prompts
from plad_bench.execute.stages.train import Corpus
from plad_bench.execute.worker import Context

BATCH = 64


def run(context: Context) -> None:
    """Write logprobs.json: {reference_chosen, reference_rejected} of every row of pairs.jsonl, in its order."""
    import torch

    from plad_bench.learn import models, sequences
    from plad_bench.learn.objectives import sequence_logprobs
    from plad_bench.learn.predictions import Predictor

    model, tokenizer = models.load(context.inputs["model"].path / MODEL, context.device, context.spec["precision"])
    predictor, encoder = Predictor(model), models.encoder(model, tokenizer, context.counts)
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    corpus = Corpus(prompts, [encoder.prompt(p.prompt) for p in prompts], encoder)
    rows = corpus.pairs(context)
    facts: list[dict[str, float]] = [{} for _ in rows]
    for side in ("chosen", "rejected"):
        for indices in sequences.micro_batches([row[side] for row in rows], BATCH):
            batch = sequences.collate([rows[i][side] for i in indices], tokenizer.pad_token_id, context.device)
            with torch.no_grad():  # not inference_mode, in which no head could be compared with its gradients
                sums, _ = sequence_logprobs(predictor, batch)
            for i, value in zip(indices, sums.tolist(), strict=True):
                facts[i][f"reference_{side}"] = value
    (context.out / LOGPROBS).write_text(json.dumps(facts))
