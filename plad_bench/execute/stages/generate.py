"""The generate stage: a model's responses to the prompts of a split."""

from __future__ import annotations

from plad_bench.execute.stages.files import MODEL, RESPONSES, read_prompts, response_row, write_lines
from plad_bench.execute.worker import Context


def run(context: Context) -> None:
    """Write responses.jsonl: for each prompt its responses, as text and as the token ids they were generated as."""
    from plad_bench.learn import models
    from plad_bench.learn.generation import Decoding, generate

    spec = context.spec
    prompts = read_prompts(context.inputs["data"], spec["split"], spec.get("limit", 0))
    model, tokenizer = models.load(context.inputs["model"].path / MODEL, context.device, spec["precision"])
    decoding = Decoding(
        max_new_tokens=spec["max_new_tokens"],
        temperature=spec.get("temperature", 0.0),
        top_k=spec.get("top_k", 0),
        seed=spec.get("seed", 0),
    )
    responses = generate(model, tokenizer, [p.prompt for p in prompts], decoding, progress=context.progress)
    context.cost["tokens_generated"] = sum(len(r.ids or ()) + r.finished for r in responses)
    context.counts["unfinished"] = sum(not r.finished for r in responses)
    context.counts["empty"] = sum(not r.text.strip() for r in responses)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)
    write_lines(
        context.out / RESPONSES,
        ({"id": p.id, "responses": [response_row(r)]} for p, r in zip(prompts, responses, strict=True)),
    )
