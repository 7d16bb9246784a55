"""The ask stage: responses of a teacher that does not run here, such as an endpoint, to the prompts of a split."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.jsonlines import write_lines
from plad_bench.contract.money import Budget
from plad_bench.contract.registry import resolve
from plad_bench.contract.requests import Request, RequestContext
from plad_bench.contract.words import canonical
from plad_bench.execute.stages.files import RESPONSES, Prompt, read_prompts, response_row
from plad_bench.execute.store import RESPONSE_CACHE
from plad_bench.execute.worker import Context
from plad_bench.plan.chosen import Chosen

LISTED = 100
"""Empty responses that are listed, by the id of their prompt."""


def run(context: Context) -> None:
    """Write responses.jsonl: for each prompt its responses.

    Raises:
        StageError: if a prompt has no response, or every response is empty.
    """
    prompts = read_prompts(context.inputs["data"], context.spec["split"], context.spec.get("limit", 0))
    responses = _asked(
        context.chosen("teacher"),
        prompts,
        RequestContext(
            **_how(context.spec),
            response_cache=context.partial / RESPONSE_CACHE,
            budget=context.budget,
            progress=context.progress,
            counts=context.counts,
            cost=context.cost,
            notes=context.notes,
        ),
    )
    empty = [p.id for p, found in zip(prompts, responses, strict=True) if not all(r.text.strip() for r in found)]
    if empty:
        context.notes["empty"] = empty[:LISTED]
    context.counts["empty"] = len(empty)
    context.counts["truncated"] = sum(not r.finished for found in responses for r in found)
    write_lines(
        context.out / RESPONSES,
        ({"id": p.id, "responses": [response_row(r) for r in f]} for p, f in zip(prompts, responses, strict=True)),
    )


def check(teacher: Chosen, spec: Mapping[str, Any], prompts: Sequence[Prompt]) -> RequestContext:
    """Check that a teacher which responds immediately has the responses that a stage will need; its counts and notes.

    Args:
        teacher: a teacher with an `immediate` component.
        spec: of the stage.
        prompts: of the stage.

    Raises:
        StageError: as `run`.
    """
    context = RequestContext(
        **_how(spec),
        response_cache=Path(os.devnull),
        budget=Budget(),
        progress=lambda done, total: None,
        counts={},
        cost={},
        notes={},
    )
    with contextlib.redirect_stdout(io.StringIO()):  # its output belongs to the stage's log
        _asked(teacher, prompts, context)
    return context


def _how(spec: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "split": spec["split"],
        "max_new_tokens": spec["max_new_tokens"],
        "temperature": spec.get("temperature", 0.0),
        "top_k": spec.get("top_k", 0),
        "seed": spec.get("seed", 0),
        "samples": spec.get("samples", 1),
        "same": canonical,
    }


def _asked(teacher: Chosen, prompts: Sequence[Prompt], context: RequestContext) -> list[tuple[Response, ...]]:
    """The responses to each prompt; none only if the teacher declares that some prompts have none."""
    requests = [Request(id=p.id, prompt=p.prompt) for p in prompts]
    responses = [tuple(r) for r in resolve(teacher.component.responses)(requests, teacher.params, context)]
    if len(responses) != len(prompts):
        raise StageError(f"teacher {teacher.label} gave responses to {len(responses)} of {len(prompts)} prompts")
    missing = [p.id for p, found in zip(prompts, responses, strict=True) if not found]
    if len(missing) > context.counts.get("without_response", 0) or (missing and len(missing) == len(prompts)):
        raise StageError(
            f"teacher {teacher.label} has no response to {len(missing)} of {len(prompts)} prompts of the split "
            f"{context.split}, among them {', '.join(missing[:3])}"
        )
    if prompts and not any(r.text.strip() for found in responses for r in found):
        raise StageError(f"every response of teacher {teacher.label} is empty", "Check its parameters.")
    return responses
