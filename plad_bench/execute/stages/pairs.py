"""The pairs stage: builds preference pairs from responses, and scores them if the method reads scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from plad_bench.contract.enums import STAGE_OF, Text
from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Candidates, Pair, Response, Scored
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.files import PAIRS, read_prompts, read_responses, response_row, scored
from plad_bench.execute.stages.pair_filters import sift
from plad_bench.execute.stages.score import scorer_of
from plad_bench.execute.worker import Context
from plad_bench.plan.chosen import choose


def run(context: Context) -> None:
    """Write pairs.jsonl."""
    builder = context.chosen("builder")
    training = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    prompts = {p.id: p for p in training}
    needed = [text for text in builder.component.needs if text in STAGE_OF]
    sources = {text: read_responses(context.inputs[STAGE_OF[text]], training) for text in needed}
    candidates = []
    for prompt in training:
        responses = {text: by_id[prompt.id] for text, by_id in sources.items()}
        if not all(responses.values()):  # a recorded teacher may lack some
            continue
        responses[Text.REFERENCE] = tuple(Response(text=r) for r in prompt.references)
        candidates.append(Candidates(id=prompt.id, prompt=prompt.prompt, responses=responses, meta=prompt.meta))

    def scorers(selector: str) -> Callable[[Sequence[Scored]], Sequence[float]]:
        (metric,) = choose(context.registry, "metric", selector)
        return scorer_of(context, metric.private())

    made = list(resolve(builder.component.build)(candidates, builder.params, scorers))
    if unknown := {pair.id for pair in made} - set(prompts):
        raise StageError(f"{builder.label} made pairs of unknown examples: {', '.join(sorted(unknown)[:3])}")
    params: Any = builder.params
    if params.margin is not None:
        made = _with_margins(made, {c.id: c for c in candidates}, scorers(builder.component.scorer(params)))
    pairs, dropped = sift(made, params)
    for reason, count in sorted(dropped.items()):
        context.counts[f"dropped_{reason}"] = count
    if not pairs:
        why = ", ".join(f"{count} {reason}" for reason, count in dropped.most_common())
        raise StageError(
            f"{builder.label} made no pair out of {len(prompts)} prompts" + (f" (dropped: {why})" if why else ""),
            "Relax its filters, or sample more responses (--samples)." if why else "",
        )
    rows: list[dict[str, Any]] = [
        {"id": p.id, "chosen": response_row(p.chosen), "rejected": response_row(p.rejected)} for p in pairs
    ]
    if "scorer" in context.job:
        score = scorer_of(context, context.job["scorer"])
        for side in ("chosen", "rejected"):
            values = score([scored(prompts[p.id], getattr(p, side).text) for p in pairs])
            for row, value in zip(rows, values, strict=True):
                row[f"{side}_score"] = float(value)
    context.counts["pairs"] = len(pairs)
    context.counts["prompts_without_pair"] = len(prompts) - len({pair.id for pair in pairs})
    write_lines(context.out / PAIRS, rows)


def _with_margins(
    pairs: Iterable[Pair], candidates: Mapping[str, Candidates], score: Callable[[Sequence[Scored]], Sequence[float]]
) -> list[Pair]:
    """The pairs with margins; those that have a margin keep it."""
    pairs = list(pairs)
    bare = [pair for pair in pairs if pair.margin is None]
    sides = [candidates[p.id].scored(r.text) for p in bare for r in (p.chosen, p.rejected)]
    values = iter(score(sides) if sides else ())
    return [replace(p, margin=next(values) - next(values)) if p.margin is None else p for p in pairs]
