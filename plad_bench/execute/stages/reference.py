"""The reference stage: log-probabilities of every pair under the reference model."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from plad_bench.execute.stages.corpus import Corpus
from plad_bench.execute.stages.files import LOGPROBS, MODEL, read_prompts
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Tokens

BATCH = 64


def run(context: Context) -> None:
    """Write logprobs.json: {reference_chosen, reference_rejected} of every row of pairs.jsonl, in its order."""
    import torch

    from plad_bench.learn import memory, models, sequences
    from plad_bench.learn.chunked_logits import Predictor
    from plad_bench.learn.objectives import sequence_logprobs

    model, tokenizer = models.load(context.inputs["model"].path / MODEL, context.device, context.spec["precision"])
    predictor, encoder = Predictor(model), models.encoder(model, tokenizer, context.counts)
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    corpus = Corpus(prompts, [encoder.prompt(p.prompt) for p in prompts], encoder)
    rows = corpus.pairs(context)
    context.usage.loaded()

    def logprobs(some: Sequence[Tokens], size: int) -> list[float]:
        sums: list[float] = []
        for part in memory.slices(some, size):
            batch = sequences.collate(part, tokenizer.pad_token_id, context.device)
            with torch.no_grad():  # not inference_mode, which would prevent the comparison of heads by their gradients
                sums += sequence_logprobs(predictor, batch)[0].tolist()
        return sums

    facts: list[dict[str, float]] = [{} for _ in rows]
    for side in ("chosen", "rejected"):
        for indices in sequences.micro_batches([row[side] for row in rows], BATCH):
            read = functools.partial(logprobs, [rows[i][side] for i in indices])
            sums = memory.fit(read, len(indices), context.memory_policy, what="reading one response")
            for i, value in zip(indices, sums, strict=True):
                facts[i][f"reference_{side}"] = value
    (context.out / LOGPROBS).write_text(json.dumps(facts))
