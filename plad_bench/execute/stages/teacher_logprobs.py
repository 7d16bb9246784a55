"""The stage `signals`: precomputes the teacher's log-probabilities of a source of text, for all methods and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plad_bench.contract.enums import Text
from plad_bench.execute.stages import slots
from plad_bench.execute.stages.corpus import Corpus
from plad_bench.execute.stages.files import MODEL, read_prompts
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from plad_bench.learn.sequences import Encoder, Tokens
    from plad_bench.learn.teacher_cache import TeacherReader


def run(context: Context) -> None:
    """Write the files of learn/teacher_cache.py for every training sequence of the text."""
    with slots.gpus(context) as gpus:
        if context.rank:
            return
        if context.spec.get("backend") == "vllm":
            _with_vllm(context, gpus)
        else:
            _with_transformers(context)


def _with_transformers(context: Context) -> None:
    from plad_bench.learn import models, teacher_cache
    from plad_bench.learn.chunked_logits import Predictor

    path = context.inputs["teacher"].path / MODEL
    model, tokenizer = models.load(path, context.device, context.spec["precision"])
    encoder = models.encoder(model, tokenizer, context.counts)
    sequences = _sequences(context, encoder)
    predictor, pad = Predictor(model.requires_grad_(False)), tokenizer.pad_token_id  # noqa: FBT003  torch's signature
    teacher = teacher_cache.LoadedTeacher(
        predictor,
        pad,
        context.device,
        context.memory_policy,
        words=teacher_cache.words(tokenizer, sequences),
        head=None if context.spec["k"] else teacher_cache.head_of(predictor, sequences, pad, context.device),
    )
    _write(context, teacher, encoder, sequences)
    context.cost["peak_memory_bytes"] = models.peak_memory(context.device)


def _with_vllm(context: Context, gpus: Sequence[str]) -> None:
    from plad_bench.learn import vllm_engine

    path = context.inputs["teacher"].path / MODEL
    precision = context.spec["precision"]
    teacher = vllm_engine.Served(path, context.device, precision, context.partial, context.counts, gpus)
    _write(context, teacher, teacher.encoder, _sequences(context, teacher.encoder))
    context.cost["peak_memory_bytes"] = teacher.peak_memory_bytes


def _sequences(context: Context, encoder: Encoder) -> list[Tokens]:
    prompts = read_prompts(context.inputs["data"], "train", context.spec.get("limit", 0))
    corpus = Corpus(prompts, [encoder.prompt(p.prompt) for p in prompts], encoder)
    return [sequence for several in corpus.responses(context, Text(context.spec["text"])) for sequence in several]


def _write(context: Context, teacher: TeacherReader, encoder: Encoder, sequences: list[Tokens]) -> None:
    from plad_bench.learn import teacher_cache

    context.usage.loaded()
    context.cost |= teacher_cache.write(
        context.out, teacher, sequences, context.spec["k"], encoder.hash, context.progress, encoder.context
    )
    encoder.tokenizer.save_pretrained(context.out / teacher_cache.TOKENIZER)
