"""The signals stage: what the teacher says of every token of a source of text, for all methods and seeds to read."""

from __future__ import annotations

from typing import TYPE_CHECKING

from plad_bench.contract.records import Text
from plad_bench.execute.stages.files import MODEL, read_prompts
from plad_bench.execute.stages.train import Corpus
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Encoder, Tokens
    from plad_bench.learn.signals import Reader


def run(context: Context) -> None:
    """Write the files of learn/signals.py for every training sequence of the text."""
    _BACKENDS[context.spec.get("backend", "transformers")](context)


def _with_transformers(context: Context) -> None:
    from plad_bench.learn import models, signals
    from plad_bench.learn.predictions import Predictor

    path = context.inputs["teacher"].path / MODEL
    model, tokenizer = models.load(path, context.device, context.spec["precision"])
    encoder = models.encoder(model, tokenizer, context.counts)
    teacher = signals.Loaded(Predictor(model), tokenizer.pad_token_id, context.device, context.thrift)
    _write(context, teacher, encoder)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)


def _with_vllm(context: Context) -> None:
    from plad_bench.learn import vllm_engine

    path = context.inputs["teacher"].path / MODEL
    teacher = vllm_engine.Served(path, context.device, context.spec["precision"], context.partial, context.counts)
    _write(context, teacher, teacher.encoder)
    context.cost["peak_memory_bytes"] = teacher.peak_memory_bytes


def _write(context: Context, teacher: Reader, encoder: Encoder) -> None:
    from plad_bench.learn import signals

    text, k = Text(context.spec["text"]), context.spec["k"]
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    corpus = Corpus(prompts, [encoder.prompt(p.prompt) for p in prompts], encoder)
    sequences: list[Tokens] = [sequence for several in corpus.responses(context, text) for sequence in several]
    context.cost |= signals.write(context.out, teacher, sequences, k, encoder.hash, context.progress)


_BACKENDS = {"transformers": _with_transformers, "vllm": _with_vllm}
