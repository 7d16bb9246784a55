"""Generating responses in batches of like length, with cached keys and values, stopping when all have ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Response
from plad_bench.learn.models import encoder as encoder_of
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
    encoder = encoder_of(model, tokenizer)
    encoded = [encoder.prompt(p) for p in prompts]
    check_room(encoder, encoded, decoding.max_new_tokens)
    responses: dict[int, Response] = {}
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), i))
    ends = end_tokens(model.generation_config, tokenizer)
    begin = {"decoder_start_token_id": model.config.decoder_start_token_id} if encoder.encoder_decoder else {}
    model.generation_config = _config(decoding, tokenizer, ends, begin)
    for start in range(0, len(prompts), BATCH):
        indices = longest_first[start : start + BATCH]
        torch.manual_seed(derive(decoding.seed, "generate", start))
        for i, ids in zip(indices, _batch(model, tokenizer, [encoded[i] for i in indices]), strict=True):
            responses[i] = response_of(encoder, ids, ends)
        progress(len(responses), len(prompts))
    return [responses[i] for i in range(len(prompts))]


def response_of(encoder: Encoder, ids: Sequence[int], ends: set[int]) -> Response:
    """The response that ends at the first end token, or was cut."""
    end = next((n for n, token in enumerate(ids) if token in ends), None)
    kept = list(ids[:end])
    text = str(encoder.tokenizer.decode(kept, skip_special_tokens=True))
    return Response(text=text, ids=tuple(kept), tokenizer=encoder.hash, finished=end is not None)


def _batch(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, prompts: list[list[int]]) -> list[list[int]]:
    apart = model.config.is_encoder_decoder
    ids, mask = padded(prompts, tokenizer.pad_token_id, model.device, left=not apart)
    generate_: Any = model.generate
    output = generate_(input_ids=ids, attention_mask=mask)
    return [list(row) for row in output[:, 1 if apart else ids.shape[1] :].tolist()]


def _config(
    decoding: Decoding, tokenizer: PreTrainedTokenizerBase, ends: set[int], begin: Mapping[str, int]
) -> GenerationConfig:
    sampling = {"temperature": decoding.temperature, "top_k": decoding.top_k, "top_p": 1.0}
    return GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=decoding.temperature > 0,
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        **begin,
        **(sampling if decoding.temperature > 0 else {}),
    )


def check_room(encoder: Encoder, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    """See that every prompt leaves room for a response.

    Raises:
        StageError: if one does not.
    """
    room = encoder.context - max_new_tokens
    if too_long := [ids for ids in prompts if len(ids) > room]:
        beginning = encoder.tokenizer.decode(too_long[0], skip_special_tokens=True)[:60]
        raise StageError(
            f"{len(too_long)} prompts are longer than the {room} tokens that a context of {encoder.context} leaves "
            f"beside {max_new_tokens} new tokens; the first begins {beginning!r}",
            "Lower --max-new-tokens, or take a model with a longer context.",
        )


def padded(prompts: Sequence[list[int]], pad: int, device: torch.device, *, left: bool = True) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of B prompts, [B, T] each, that all end in the last column or begin in the first."""
    longest = max(map(len, prompts))
    rows = []
    for prompt in prompts:
        filling = [(pad, 0)] * (longest - len(prompt))
        tokens = [(token, 1) for token in prompt]
        rows.append([*filling, *tokens] if left else [*tokens, *filling])
    both = torch.tensor(rows, device=device)
    return both[..., 0], both[..., 1]


def end_tokens(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokenizer's end token and whatever else the model's publisher ends a turn with."""
    published = config.eos_token_id if config else None
    more = published if isinstance(published, list) else [published]
    return {tokenizer.eos_token_id, *(token for token in more if token is not None)}
