"""Sequence-classification models, such as reward models. Weights come from safetensors; remote code never runs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from plad_bench.contract import hub
from plad_bench.contract.errors import MissingError
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.models import PromptFormat
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.models import context_length, embedded, resolve
from plad_bench.learn.prompts import Chat, Spelling

BATCH = 32


class Classifier:
    """A sequence classifier and its tokenizer."""

    def __init__(
        self,
        model_id: str,
        revision: str | None,
        device: str,
        counts: dict[str, float],
        *,
        memory_policy: MemoryPolicy | None = None,
    ) -> None:
        """Load a classifier, downloading it if needed.

        Raises:
            MissingError: if it is not available, or has no safetensors or no trained classification head.
        """
        resolved = resolve(model_id, revision)
        source = hub.located(model_id, resolved["revision"]) or Path(model_id)
        self.tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False)
        model, info = AutoModelForSequenceClassification.from_pretrained(
            source, dtype=torch.float32, use_safetensors=True, trust_remote_code=False, output_loading_info=True
        )
        if info["missing_keys"]:
            missing = ", ".join(sorted(info["missing_keys"])[:2])
            raise MissingError(
                f"{Path(model_id).name} is not a sequence classifier: it has no weights {missing}",
                "Choose a reward model, or another model saved with a trained classification head.",
            )
        self.model = model.to(device).eval()
        self.counts, self.memory_policy = counts, memory_policy or MemoryPolicy()
        # Models look for padding to find the last token. If it is the end token or absent, texts are read one by one.
        pad, rows = self.tokenizer.pad_token_id, embedded(model)
        self.alone = pad is None or pad == self.tokenizer.eos_token_id or 0 < rows <= pad
        self.model.config.get_text_config().pad_token_id = None if self.alone else pad
        self.tokenizer.padding_side = "right"
        self.spelling = Spelling(self.tokenizer)
        self.chat = Chat(self.tokenizer, PromptFormat()) if self.tokenizer.chat_template else None

    @torch.inference_mode()
    def logits(
        self, texts: Sequence[tuple[str, str]], progress: Callable[[int, int], None] = lambda done, total: None
    ) -> list[list[float]]:
        """The logits of each (prompt, response), by the chat template or as a pair; long prompts lose their start."""
        encoded = [self._encode(*text) for text in texts]
        ordered = sorted(range(len(texts)), key=lambda i: len(encoded[i]["input_ids"]))
        found: dict[int, list[float]] = {}
        for indices in slices(ordered, 1 if self.alone else BATCH):
            read = functools.partial(self._read, [encoded[i] for i in indices])
            found |= zip(indices, fit(read, len(indices), self.memory_policy, what="reading one text"), strict=True)
            progress(len(found), len(texts))
        return [found[i] for i in range(len(texts))]

    def _read(self, several: Sequence[dict[str, list[int]]], size: int) -> list[list[float]]:
        logits: list[list[float]] = []
        for rows in slices(several, size):
            batch: Any = {k: torch.tensor([row[k] for row in rows]) for k in rows[0]} if self.alone else self._pad(rows)
            found = self.model(**{name: value.to(self.model.device) for name, value in batch.items()}).logits
            logits += found.float().tolist()
        return logits

    def _pad(self, rows: Any) -> Any:
        return self.tokenizer.pad(rows, return_tensors="pt")

    def _encode(self, prompt: str, response: str) -> dict[str, list[int]]:
        if self.chat:
            turns = [{"role": "user", "content": prompt}, {"role": "assistant", "content": response}]
            ids, control = self.spelling.chat(functools.partial(self.chat.render, reply=False), turns)
            encoded = {"input_ids": ids, "attention_mask": [1] * len(ids)}
        else:
            encoded, control = self.spelling.pair(prompt, response)
        if control:
            self.counts["control_tokens_as_text"] = self.counts.get("control_tokens_as_text", 0) + control
        room = context_length(self.model)
        if len(encoded["input_ids"]) > room:
            self.counts["truncated_sequences"] = self.counts.get("truncated_sequences", 0) + 1
        return {name: list(ids)[-room:] for name, ids in encoded.items()}
