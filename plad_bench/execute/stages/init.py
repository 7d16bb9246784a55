"""The init stage: a model before training. New weights from a seed, a converted published model, or a pointer to it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from plad_bench.execute.stages.files import MODEL, read_prompts
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Encoder

MEASURED_ON = 64
"""Number of training prompts, each with a reference, on which pruning measures what matters in a model."""
MEASURED_TOKENS = 256
"""Maximum number of tokens of each."""


def run(context: Context) -> None:
    """Write model/: a Hugging Face directory, or pointer.json to one that is used in place."""
    from plad_bench.learn import models

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
            _prune(context, model, models.encoder(model, tokenizer))
        context.counts["parameters"] = sum(p.numel() for p in model.parameters())
        (target / models.POINTER).unlink()
        models.save(model, tokenizer, target)
        return
    model, tokenizer = models.from_scratch(context.inputs["tokenizer"].path / "tokenizer", context.spec)
    context.counts["parameters"] = sum(p.numel() for p in model.parameters())
    models.save(model, tokenizer, target)


def _prune(context: Context, model: Any, encoder: Encoder) -> None:
    """Keep the layers and neurons that the specification asks for; those kept are notes of the artifact."""
    from plad_bench.learn import pruning

    spec, importance = context.spec, None
    if "data" in context.inputs:
        prompts = read_prompts(context.inputs["data"], "train", MEASURED_ON)
        texts = (encoder.prompt(p.prompt) + encoder.spelling.text(" ".join(p.references[:1]))[0] for p in prompts)
        importance = pruning.measured(model, (ids[: min(MEASURED_TOKENS, encoder.context)] for ids in texts))
        context.notes["influence"] = [round(value, 6) for value in importance.layers]
    kept = context.notes["layers"] = pruning.prune(model, spec["layers"], importance if "by" in spec else None)
    if "width" in spec and importance is not None:
        pruning.narrow(model, spec["width"], [importance.neurons[index] for index in kept])
