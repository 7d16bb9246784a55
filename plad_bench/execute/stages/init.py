"""The init stage: a model before training. New weights from a seed, a converted published model, or a pointer to it."""

from __future__ import annotations

import json

from plad_bench.execute.stages.files import MODEL
from plad_bench.execute.worker import Context


def run(context: Context) -> None:
    """Write model/: a Hugging Face directory, or pointer.json to one that is used in place."""
    from plad_bench.learn import models, pruning

    target = context.out / MODEL
    if "tokenizer" not in context.inputs:
        target.mkdir()
        resolved = models.resolve(context.job["id"], context.job["revision"])
        settings = {name: value for name, value in context.spec.get("prompts", {}).items() if name != "version"}
        context.notes["revision"] = resolved["revision"]
        (target / models.POINTER).write_text(json.dumps({**resolved, "prompts": settings}))
        if not {"layers", "gguf"} & context.spec.keys():
            return
        model, tokenizer = models.load(target, "cpu", "float32")
        if "layers" in context.spec:
            context.notes["layers"] = pruning.prune(model, context.spec["layers"])
        context.counts["parameters"] = sum(p.numel() for p in model.parameters())
        (target / models.POINTER).unlink()
        models.save(model, tokenizer, target)
        return
    model, tokenizer = models.from_scratch(context.inputs["tokenizer"].path / "tokenizer", context.spec)
    context.counts["parameters"] = sum(p.numel() for p in model.parameters())
    models.save(model, tokenizer, target)
