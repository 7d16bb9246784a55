"""Generating responses in batches of like length, with cached keys and values, stopping when all have ended."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Response
from plad_bench.learn.models import context_length
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Encoder

BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to decode: greedily at temperature 0, else by sampling from the top k."""

    max_new_tokens: int
    temperature: float = 0.0
    top_k: int = 0
    seed: int = 0


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[str],
    decoding: Decoding,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> list[Response]:
    """One response for each prompt, in their order.

    Raises:
        StageError: if a prompt leaves no room for the response in the model's context.
    """
    encoder = Encoder(tokenizer, context_length(model))
    encoded = [encoder.prompt(p) for p in prompts]
    room = context_length(model) - decoding.max_new_tokens
    if too_long := [p for p, ids in zip(prompts, encoded, strict=True) if len(ids) > room]:
        raise StageError(
            f"{len(too_long)} prompts are longer than the {room} tokens that a context of {context_length(model)} "
            f"leaves beside {decoding.max_new_tokens} new tokens; the first begins {too_long[0][:60]!r}",
            "Lower --max-new-tokens, or take a model with a longer context.",
        )
    responses: dict[int, Response] = {}
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), i))
    ends = _end_tokens(model, tokenizer)
    model.generation_config = _config(decoding, tokenizer, ends)
    for start in range(0, len(prompts), BATCH):
        indices = longest_first[start : start + BATCH]
        torch.manual_seed(derive(decoding.seed, "generate", start))
        for i, ids in zip(indices, _batch(model, tokenizer, [encoded[i] for i in indices]), strict=True):
            end = next((n for n, token in enumerate(ids) if token in ends), None)
            kept = ids[:end]
            text = str(tokenizer.decode(kept, skip_special_tokens=True))
            responses[i] = Response(text=text, ids=tuple(kept), tokenizer=encoder.hash, finished=end is not None)
        progress(len(responses), len(prompts))
    return [responses[i] for i in range(len(prompts))]


def _batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    pad = tokenizer.pad_token_id
    ids = torch.tensor([[pad] * (longest - len(p)) + p for p in prompts], device=model.device)
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts], device=model.device)
    generate_: Any = model.generate
    output = generate_(input_ids=ids, attention_mask=mask)
    return [list(row) for row in output[:, longest:].tolist()]


def _config(decoding: Decoding, tokenizer: PreTrainedTokenizerBase, ends: set[int]) -> GenerationConfig:
    sampling = {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.temperature > 0,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        **(sampling if decoding.temperature > 0 else {}),
    )


def _end_tokens(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end token and whatever else the model's publisher ends a turn with."""
    published = model.generation_config.eos_token_id if model.generation_config else None
    more = published if isinstance(published, list) else [published]
    return {tokenizer.eos_token_id, *(token for token in more if token is not None)}
