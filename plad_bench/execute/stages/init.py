"""The init stage: a model before any training of ours: new weights from a seed, or a pointer to a published model."""

from __future__ import annotations

import json

from plad_bench.execute.stages.files import MODEL
from plad_bench.execute.worker import Context


def run(context: Context) -> None:
    """Write model/: a Hugging Face directory, or pointer.json to one that is not ours to copy."""
    from plad_bench.learn import models

    target = context.out / MODEL
    if "tokenizer" not in context.inputs:
        target.mkdir()
        resolved = models.resolve(context.job["id"], context.job["revision"])
        (target / models.POINTER).write_text(json.dumps(resolved))
        context.notes["revision"] = resolved["revision"]
        return
    model, tokenizer = models.from_scratch(context.inputs["tokenizer"].path / "tokenizer", context.spec)
    context.counts["parameters"] = sum(p.numel() for p in model.parameters())
    models.save(model, tokenizer, target)
