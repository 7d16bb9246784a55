"""The ask stage: the responses, to the prompts of a split, of a teacher that is no model of ours."""

from __future__ import annotations

from plad_bench.contract.errors import StageError
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.records import Asking, Question
from plad_bench.contract.registry import resolve
from plad_bench.execute.stages.data import signature
from plad_bench.execute.stages.files import RESPONSES, read_prompts, response_row
from plad_bench.execute.store import JOURNAL
from plad_bench.execute.worker import Context

LISTED = 100
"""How many empty responses are listed by the id of their prompt."""


def run(context: Context) -> None:
    """Write responses.jsonl: for each prompt its responses.

    Raises:
        StageError: if a prompt has no response, or every response is empty.
    """
    spec, teacher = context.spec, context.chosen("teacher")
    prompts = read_prompts(context.inputs["data"], spec["split"], spec.get("limit", 0))
    asking = Asking(
        split=spec["split"],
        max_new_tokens=spec["max_new_tokens"],
        temperature=spec.get("temperature", 0.0),
        top_k=spec.get("top_k", 0),
        seed=spec.get("seed", 0),
        samples=spec.get("samples", 1),
        journal=context.partial / JOURNAL,
        purse=context.purse,
        same=signature,
        progress=context.progress,
        counts=context.counts,
        cost=context.cost,
        notes=context.notes,
    )
    questions = [Question(id=p.id, prompt=p.prompt) for p in prompts]
    responses = [tuple(r) for r in resolve(teacher.component.responses)(questions, teacher.params, asking)]
    if len(responses) != len(prompts):
        raise StageError(f"teacher {teacher.label} answered {len(responses)} of {len(prompts)} prompts")
    missing = [p.id for p, found in zip(prompts, responses, strict=True) if not found]
    if len(missing) > context.counts.get("without_response", 0) or (missing and len(missing) == len(prompts)):
        raise StageError(
            f"teacher {teacher.label} has no response to {len(missing)} of {len(prompts)} prompts of the split "
            f"{spec['split']}, among them {', '.join(missing[:3])}"
        )
    empty = [p.id for p, found in zip(prompts, responses, strict=True) if not all(r.text.strip() for r in found)]
    if len(empty) == len(prompts):
        raise StageError(f"every response of teacher {teacher.label} is empty", "Look at its parameters.")
    if empty:
        context.notes["empty"] = empty[:LISTED]
    context.counts["empty"] = len(empty)
    context.counts["unfinished"] = sum(not r.finished for found in responses for r in found)
    write_lines(
        context.out / RESPONSES,
        ({"id": p.id, "responses": [response_row(r) for r in f]} for p, f in zip(prompts, responses, strict=True)),
    )
