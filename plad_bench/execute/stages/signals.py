"""The signals stage: what the teacher says of every token of a source of text, for all methods and seeds to read."""

from __future__ import annotations

from plad_bench.contract.records import Text
from plad_bench.execute.stages.files import MODEL, read_prompts
from plad_bench.execute.stages.train import Corpus
from plad_bench.execute.worker import Context


def run(context: Context) -> None:
    """Write the files of learn/signals.py for every training sequence of the text."""
    from plad_bench.learn import models, signals
    from plad_bench.learn.predictions import Predictor

    spec = context.spec
    model, tokenizer = models.load(context.inputs["teacher"].path / MODEL, context.device, spec["precision"])
    encoder = models.encoder(model, tokenizer, context.counts)
    prompts = read_prompts(context.inputs["data"], "train", spec.get("limit", 0))
    corpus = Corpus(prompts, [encoder.prompt(p.prompt) for p in prompts], encoder)
    context.cost |= signals.write(
        context.out,
        Predictor(model),
        [sequence for several in corpus.responses(context, Text(spec["text"])) for sequence in several],
        spec["k"],
        encoder.hash,
        tokenizer.pad_token_id,
        context.device,
        context.progress,
        context.thrift,
    )
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)
