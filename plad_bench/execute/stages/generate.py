"""The generate stage: a model's responses to the prompts of a split, one or several for each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plad_bench.contract.examples import Response
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.models import HubModel
from plad_bench.execute.stages import slots
from plad_bench.execute.stages.files import RESPONSES, model_of, read_prompts, response_row
from plad_bench.execute.worker import Context
from plad_bench.plan.published import parameters

if TYPE_CHECKING:
    from plad_bench.learn.generation import Decoding


def run(context: Context) -> None:
    """Write responses.jsonl: for each prompt its responses, as text and as the generated token ids."""
    with slots.gpus(context) as gpus:
        if not context.rank:
            _run(context, gpus)


def _run(context: Context, gpus: Sequence[str]) -> None:
    from plad_bench.learn import models
    from plad_bench.learn.generation import Decoding
    from plad_bench.learn.seeds import derive

    spec = context.spec
    files, _ = models.located(model_of(context.inputs["model"], spec))
    if size := parameters(HubModel(id=str(files))):
        context.counts["parameters"] = size
    prompts = read_prompts(context.inputs["data"], spec["split"], spec.get("limit", 0))
    seed = spec.get("seed", 0)
    rounds = [
        Decoding(
            max_new_tokens=spec["max_new_tokens"],
            temperature=spec.get("temperature", 0.0),
            top_k=spec.get("top_k", 0),
            seed=derive(seed, "again", number) if number else seed,  # the first equals that of a single response
        )
        for number in range(spec.get("samples", 1))
    ]
    asked = [p.prompt for p in prompts]
    by_vllm = spec["backend"] == "vllm"
    made = _with_vllm(context, asked, rounds, gpus) if by_vllm else _with_transformers(context, asked, rounds)
    every = [response for responses in made for response in responses]
    context.cost["tokens_generated"] = sum(len(r.ids or ()) + r.finished for r in every)
    context.counts["truncated"] = sum(not r.finished for r in every)
    context.counts["empty"] = sum(not r.text.strip() for r in every)
    write_lines(
        context.out / RESPONSES,
        ({"id": p.id, "responses": [response_row(rs[i]) for rs in made]} for i, p in enumerate(prompts)),
    )


def _with_transformers(context: Context, prompts: Sequence[str], rounds: Sequence[Decoding]) -> list[list[Response]]:
    from plad_bench.learn import models
    from plad_bench.learn.generation import generate

    model, tokenizer = models.load(
        model_of(context.inputs["model"], context.spec), context.device, context.spec["precision"]
    )
    context.notes["prompts"] = models.encoder(model, tokenizer).described()
    context.usage.loaded()
    made: list[list[Response]] = []
    for decoding in rounds:
        before, total = len(made) * len(prompts), len(rounds) * len(prompts)

        def progress(done: int, _: int, before: int = before, total: int = total) -> None:
            context.progress(before + done, total)

        counts = context.counts if not made else {}  # every round has the same prompts
        made.append(
            generate(model, tokenizer, prompts, decoding, progress, memory_policy=context.memory_policy, counts=counts)
        )
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)
    return made


def _with_vllm(
    context: Context, prompts: Sequence[str], rounds: Sequence[Decoding], gpus: Sequence[str]
) -> list[list[Response]]:
    from plad_bench.learn import vllm_engine

    path = model_of(context.inputs["model"], context.spec)
    said = context.spec.get("logprobs", False)
    context.notes["prompts"] = vllm_engine.described(path)[1].described()
    made, peak = vllm_engine.generate(
        path,
        context.device,
        context.spec["precision"],
        prompts,
        rounds,
        logprobs=said,
        counts=context.counts,
        gpus=gpus,
    )
    context.cost["peak_memory_bytes"] = peak
    return made
