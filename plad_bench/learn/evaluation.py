"""A model for metrics: functions of its logits at the tokens of texts, and samples from it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from plad_bench.contract.errors import UnmeasuredError
from plad_bench.contract.examples import Response
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.tools import LanguageModel
from plad_bench.learn import models
from plad_bench.learn.chunked_logits import Predictor, parts
from plad_bench.learn.divergences import cross_entropy
from plad_bench.learn.generation import Decoding, generate
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.sequences import Encoder, Tokens, collate, micro_batches
from plad_bench.learn.teacher_cache import exchanged

BATCH = 32


class Evaluated(LanguageModel):
    """A model from the store."""

    def __init__(  # noqa: PLR0917  what a stage knows of it
        self,
        path: Path,
        device: str,
        precision: str,
        max_new_tokens: int,
        counts: dict[str, float],
        memory_policy: MemoryPolicy | None = None,
    ) -> None:
        self.memory_policy = memory_policy or MemoryPolicy()
        self.model, self.tokenizer = models.load(path, device, precision)
        self.encoder = models.encoder(self.model, self.tokenizer, counts)
        self.max_new_tokens = max_new_tokens

    def measure(
        self,
        texts: Sequence[tuple[str, Response]],
        function: Callable[..., Tensor],
        beside: LanguageModel | None = None,
    ) -> list[NDArray[np.float64]]:
        if beside is not None and Encoder(beside.tokenizer, 0).hash != self.encoder.hash:
            raise UnmeasuredError("student and teacher have different tokenizers, so their logits cannot be compared")
        items = self._items(texts, beside)
        predictors = [Predictor(m.model) for m in (self, beside) if m is not None]
        measured: dict[int, NDArray[np.float64]] = {}
        for indices in micro_batches(items, BATCH):

            def rows(size: int, indices: list[int] = indices) -> list[NDArray[np.float64]]:
                made = (self._rows(predictors, [items[i] for i in some], function) for some in slices(indices, size))
                return [row for part in made for row in part]

            measured |= zip(indices, fit(rows, len(indices), self.memory_policy, what="reading one text"), strict=True)
        return [measured[i] for i in range(len(items))]

    def _items(self, texts: Sequence[tuple[str, Response]], beside: LanguageModel | None) -> list[Tokens]:
        """The texts, truncated to the shorter context of both models; truncated texts are counted."""
        encoder = self.encoder
        if beside is not None:
            theirs = models.encoder(beside.model, beside.tokenizer)
            if not encoder.prompts_like(theirs):
                sides = ((encoder.prompt(p), encoder.response(r), theirs.prompt(p)) for p, r in texts)
                return [encoder.beside(prompt, response, theirs, its) for prompt, response, its in sides]
            encoder = replace(encoder, context=min(encoder.context, theirs.context))
        return [encoder.sequence(encoder.prompt(prompt), encoder.response(response)) for prompt, response in texts]

    def _rows(
        self, predictors: Sequence[Predictor], items: Sequence[Tokens], function: Callable[..., Tensor]
    ) -> list[NDArray[np.float64]]:
        """The function's values at the response tokens of some texts, [T, K] for each."""
        batch = collate(items, self.tokenizer.pad_token_id, str(self.model.device))
        labels = batch.labels[:, batch.start :][batch.valid]
        read = [batch, batch.teacher or batch]
        predictions = [predictor.constant(of) for predictor, of in zip(predictors, read, strict=False)]
        values = []
        for part in parts(len(labels), min(p.chunk for p in predictions)):
            with torch.inference_mode():
                logits = [p.logits(part).float() for p in predictions]
                logits[1:] = [exchanged(z, batch.ends) for z in logits[1:]]
                shared = min(z.shape[-1] for z in logits)  # vocabularies may differ in padding
                values.append(function(*(z[:, :shared] for z in logits), labels[part]))
        return [row.numpy() for row in torch.cat(values).double().cpu().split(batch.valid.sum(1).tolist())]

    def logprobs(self, texts: Sequence[tuple[str, Response]]) -> list[NDArray[np.float64]]:
        return [row[:, 0] for row in self.measure(texts, _logprob)]

    def sample(self, prompts: Sequence[str], *, temperature: float, top_k: int = 0, seed: int = 0) -> list[Response]:
        decoding = Decoding(max_new_tokens=self.max_new_tokens, temperature=temperature, top_k=top_k, seed=seed)
        return generate(self.model, self.tokenizer, prompts, decoding, memory_policy=self.memory_policy)


def _logprob(logits: Tensor, labels: Tensor) -> Tensor:
    return -cross_entropy(logits, labels)[:, None]
