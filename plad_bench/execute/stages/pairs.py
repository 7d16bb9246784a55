"""The pairs stage: preference pairs from the responses there are, scored where the method reads scores."""

from __future__ import annotations

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Candidates, Response, Text
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.files import PAIRS, read_prompts, read_responses, response_row, scored, write_lines
from plad_bench.execute.stages.score import scorer_of
from plad_bench.execute.worker import Context

_ROLE = {Text.TEACHER: "teach", Text.SAMPLE: "sample"}


def run(context: Context) -> None:
    """Write pairs.jsonl."""
    builder = context.chosen("builder")
    training = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    prompts = {p.id: p for p in training}
    needed = [text for text in builder.component.needs if text in _ROLE]
    sources = {text: read_responses(context.inputs[_ROLE[text]], training) for text in needed}
    candidates = []
    for prompt in training:
        responses = {text: by_id[prompt.id] for text, by_id in sources.items()}
        responses[Text.REFERENCE] = tuple(Response(text=r) for r in prompt.references)
        candidates.append(Candidates(id=prompt.id, prompt=prompt.prompt, responses=responses))
    pairs = list(resolve(builder.component.build)(candidates, builder.params))
    if not pairs:
        raise StageError(f"{builder.label} made no pair out of {len(prompts)} prompts")
    if unknown := {pair.id for pair in pairs} - set(prompts):
        raise StageError(f"{builder.label} made pairs of unknown examples: {', '.join(sorted(unknown)[:3])}")
    rows = [{"id": p.id, "chosen": response_row(p.chosen), "rejected": response_row(p.rejected)} for p in pairs]
    if "scorer" in context.job:
        score = scorer_of(context, context.job["scorer"])
        for side in ("chosen", "rejected"):
            values = score([scored(prompts[p.id], getattr(p, side).text) for p in pairs])
            for row, value in zip(rows, values, strict=True):
                row[f"{side}_score"] = float(value)
    context.counts["pairs"] = len(pairs)
    context.counts["prompts_without_pair"] = len(prompts) - len({pair.id for pair in pairs})
    write_lines(context.out / PAIRS, rows)
