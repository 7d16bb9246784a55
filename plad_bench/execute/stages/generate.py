"""The generate stage: a model's responses to the prompts of a split, one or several for each."""

from __future__ import annotations

from plad_bench.execute.stages.files import MODEL, RESPONSES, read_prompts, response_row, write_lines
from plad_bench.execute.worker import Context


def run(context: Context) -> None:
    """Write responses.jsonl: for each prompt its responses, as text and as the token ids they were generated as."""
    from plad_bench.learn import models
    from plad_bench.learn.generation import Decoding, generate
    from plad_bench.learn.seeds import derive

    spec = context.spec
    prompts = read_prompts(context.inputs["data"], spec["split"], spec.get("limit", 0))
    model, tokenizer = models.load(context.inputs["model"].path / MODEL, context.device, spec["precision"])
    rounds, seed, texts = spec.get("samples", 1), spec.get("seed", 0), [p.prompt for p in prompts]
    made = []
    for number in range(rounds):
        decoding = Decoding(
            max_new_tokens=spec["max_new_tokens"],
            temperature=spec.get("temperature", 0.0),
            top_k=spec.get("top_k", 0),
            seed=derive(seed, "again", number) if number else seed,  # the first is what a single one would be
        )
        before = number * len(prompts)

        def progress(done: int, total: int, before: int = before) -> None:
            context.progress(before + done, rounds * total)

        made.append(generate(model, tokenizer, texts, decoding, progress=progress))
    every = [response for responses in made for response in responses]
    context.cost["tokens_generated"] = sum(len(r.ids or ()) + r.finished for r in every)
    context.counts["unfinished"] = sum(not r.finished for r in every)
    context.counts["empty"] = sum(not r.text.strip() for r in every)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)
    write_lines(
        context.out / RESPONSES,
        ({"id": p.id, "responses": [response_row(rs[i]) for rs in made]} for i, p in enumerate(prompts)),
    )
