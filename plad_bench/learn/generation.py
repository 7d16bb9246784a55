"""Generate responses in batches of similar length, with a key-value cache; a batch stops when all its texts ended."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
)

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.memory_policy import GENERATION_BATCH, MemoryPolicy
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.models import encoder as encoder_of
from plad_bench.learn.models import end_tokens
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Encoder


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """Greedy decoding at temperature 0, otherwise sampling from the top k."""

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
    *,
    memory_policy: MemoryPolicy | None = None,
    counts: dict[str, float] | None = None,
) -> list[Response]:
    """One response for each prompt, in their order.

    `counts` receives the number of control tokens that texts spell.

    Raises:
        StageError: if a prompt leaves too little context for the response, or a single response exceeds the memory.
    """
    memory_policy = memory_policy or MemoryPolicy()
    encoder = encoder_of(model, tokenizer, counts)
    encoded = [encoder.prompt(p) for p in prompts]
    check_room(encoder, encoded, decoding.max_new_tokens)
    responses: dict[int, Response] = {}
    longest_first = sorted(range(len(prompts)), key=lambda i: (-len(encoded[i]), i))
    ends = end_tokens(model.generation_config, tokenizer)
    begin = {"decoder_start_token_id": model.config.decoder_start_token_id} if encoder.encoder_decoder else {}
    model.generation_config = GenerationConfig(
        max_new_tokens=decoding.max_new_tokens,
        do_sample=False,  # _Draws samples
        eos_token_id=sorted(ends),
        pad_token_id=tokenizer.pad_token_id,
        **begin,
    )
    for start in range(0, len(prompts), GENERATION_BATCH):
        indices = longest_first[start : start + GENERATION_BATCH]
        seed = derive(decoding.seed, "generate", start)
        batch = functools.partial(_batch, model, tokenizer, [encoded[i] for i in indices], decoding, seed)
        for i, ids in zip(
            indices, fit(batch, len(indices), memory_policy, what="generating one response"), strict=True
        ):
            responses[i] = response_of(encoder, ids, ends)
        progress(len(responses), len(prompts))
    return [responses[i] for i in range(len(prompts))]


def response_of(encoder: Encoder, ids: Sequence[int], ends: set[int]) -> Response:
    """The response up to the first end token, or truncated; without thinking text, unless that is kept."""
    end = next((n for n, token in enumerate(ids) if token in ends), None)
    kept = list(ids[:end])
    answer = encoder.answer(kept)
    if answer is not None:
        return Response(text=answer, finished=end is not None)
    text = str(encoder.tokenizer.decode(kept, skip_special_tokens=True))
    return Response(text=text, ids=tuple(kept), tokenizer=encoder.hash, finished=end is not None)


def _batch(  # noqa: PLR0917  what a batch depends on
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    decoding: Decoding,
    seed: int,
    size: int,
) -> list[list[int]]:
    """Token ids of a response to each prompt, `size` at a time, which changes nothing but rounding."""
    apart, made = model.config.is_encoder_decoder, []
    for rows in slices(range(len(prompts)), size):
        ids, mask = padded([prompts[i] for i in rows], tokenizer.pad_token_id, model.device, left=not apart)
        draws = [_Draws(decoding, seed, len(prompts), list(rows), model.device)] if decoding.temperature > 0 else []
        generate_: Any = model.generate
        output = generate_(input_ids=ids, attention_mask=mask, logits_processor=LogitsProcessorList(draws))
        made += [list(row) for row in output[:, 1 if apart else ids.shape[1] :].tolist()]
    return made


class _Draws(LogitsProcessor):
    """Makes the most likely token the one that `do_sample` would draw for the row in the whole batch.

    torch.multinomial divides probabilities by exponential numbers and takes the largest. These numbers are drawn here
    for all rows of the whole batch, and used for the rows at hand.
    """

    def __init__(self, decoding: Decoding, seed: int, count: int, rows: list[int], device: torch.device) -> None:
        self.count, self.rows = count, rows
        self.generator = torch.Generator(device).manual_seed(seed)
        self.warpers = LogitsProcessorList([TemperatureLogitsWarper(decoding.temperature)])
        if decoding.top_k:
            self.warpers.append(TopKLogitsWarper(decoding.top_k))

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        probabilities = self.warpers(input_ids, scores).softmax(-1)
        numbers = torch.empty((self.count, scores.shape[1]), device=scores.device)
        return probabilities / numbers.exponential_(1, generator=self.generator)[self.rows]


def check_room(encoder: Encoder, prompts: Sequence[list[int]], max_new_tokens: int, context: str = "a context") -> None:
    """Check that every prompt leaves room for a response.

    Raises:
        StageError: if one does not.
    """
    room = encoder.context - max_new_tokens
    if too_long := [ids for ids in prompts if len(ids) > room]:
        beginning = encoder.tokenizer.decode(too_long[0], skip_special_tokens=True)[:60]
        raise StageError(
            f"{len(too_long)} prompts are longer than the {room} tokens that {context} of {encoder.context} leaves "
            f"beside {max_new_tokens} new tokens; the first begins {beginning!r}",
            "Lower --max-new-tokens, or use a model with a longer context.",
        )


def padded(prompts: Sequence[list[int]], pad: int, device: torch.device, *, left: bool = True) -> tuple[Tensor, Tensor]:
    """Token ids and attention mask of B prompts, [B, T] each, padded on the left or on the right."""
    longest = max(map(len, prompts))
    rows = []
    for prompt in prompts:
        filling = [(pad, 0)] * (longest - len(prompt))
        tokens = [(token, 1) for token in prompt]
        rows.append([*filling, *tokens] if left else [*tokens, *filling])
    both = torch.tensor(rows, device=device)
    return both[..., 0], both[..., 1]
