"""Sampling responses from the student that is being trained, with or without the teacher's hand in it.

One loop for all: the student proposes tokens, drawn from its distribution or from a mixture with the teacher's, and
where asked the teacher verifies every few of them and replaces the first that it would not have said. No gradient flows
through it, and torch's own random numbers are neither read nor moved: a token is the inverse of its distribution
function at a number that belongs to (seed, step, example, position), whatever else is in the batch.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel, PreTrainedTokenizerBase

from plad_bench.contract.records import Sampling
from plad_bench.contract.thrift import Thrift
from plad_bench.learn import ranks
from plad_bench.learn.generation import check_room, padded
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.models import context_length, encoder, end_tokens
from plad_bench.learn.seeds import derive


@dataclass
class Rollouts:
    """Samples responses of a student, and counts what that takes."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    seed: int
    precision: str = "float32"
    cost: dict[str, float] = field(default_factory=dict)
    """Counts tokens_generated and teacher_tokens_scored."""
    thrift: Thrift = field(default_factory=Thrift)
    """How memory is spared."""

    def check(self, prompts: Sequence[list[int]]) -> None:
        """See that every prompt leaves room for a response, in the student and in a teacher that reads it.

        Raises:
            StageError: if one does not.
        """
        for model, role in ((self.student, "student"), (self.teacher, "teacher")):
            if model is not None:
                check_room(encoder(model, self.tokenizer), prompts, self.max_new_tokens, f"the {role}'s context")

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        """A response to each prompt as token ids, with its end token unless it was cut.

        Args:
            prompts: token ids.
            examples: the id of each prompt's example.
            step: the number of the optimiser step.
            sampling: how to sample.

        """
        prompts, examples = ranks.share(prompts), ranks.share(examples)
        before = dict(self.cost)
        responses = self._all(prompts, examples, step, sampling) if prompts else []
        mine = {name: value - before.get(name, 0) for name, value in self.cost.items()}
        self.cost |= {name: before.get(name, 0) + value for name, value in ranks.add(mine).items()}
        return ranks.gather(responses)

    def _all(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        noise = torch.stack([self._noise(step, example) for example in examples]).to(self.student.device)
        before = dict(self.cost)

        def responses(size: int) -> list[list[int]]:
            self.cost.clear()
            self.cost.update(before)
            rows = slices(range(len(prompts)), size)
            return [r for part in rows for r in self._sample([prompts[i] for i in part], noise[list(part)], sampling)]

        training = self.student.training
        self.student.eval()
        try:
            with torch.autocast(self.student.device.type, torch.bfloat16, enabled=self.precision == "bf16"):
                return fit(responses, len(prompts), self.thrift, what="sampling of one response")
        finally:
            self.student.train(training)

    def _noise(self, step: int, example: str) -> Tensor:
        """Two numbers in [0, 1) for every position: one for the student's proposal, one for the teacher's own token."""
        generator = torch.Generator().manual_seed(derive(self.seed, "rollout", step, example))
        return torch.rand(self.max_new_tokens, 2, dtype=torch.float64, generator=generator)

    def _sample(self, prompts: Sequence[list[int]], noise: Tensor, sampling: Sampling) -> list[list[int]]:
        models = [self.student]
        if self.teacher is not None and (sampling.teacher_mix or sampling.verify_top_k):
            models.append(self.teacher)
        readers = [_reader(model, prompts, self.tokenizer, sampling.temperature) for model in models]
        if any(isinstance(reader, _Decoder) for reader in readers):
            sampling = replace(sampling, draft=1)
        ends = end_tokens(self.student.generation_config, self.tokenizer)
        responses: list[list[int]] = [[] for _ in prompts]
        open_ = set(range(len(prompts)))
        made = torch.zeros(len(prompts), 1, dtype=torch.long, device=noise.device)
        while open_:
            # Rows that have ended go on until all have; what they say is dropped.
            positions = (made + torch.arange(sampling.draft, device=noise.device)).clamp_max(self.max_new_tokens - 1)
            numbers = noise.gather(1, positions[..., None].expand(-1, -1, 2))
            block, kept = _block(readers, numbers, sampling)
            made = made + kept
            for row, (tokens, count) in enumerate(zip(block.tolist(), kept[:, 0].tolist(), strict=True)):
                if row not in open_:
                    continue
                response = responses[row]
                for token in tokens[:count]:
                    response.append(token)
                    if token in ends or len(response) == self.max_new_tokens:
                        open_.remove(row)
                        break
                self._count("teacher_tokens_scored", len(tokens) * (len(readers) - 1))
        self._count("tokens_generated", sum(map(len, responses)))
        return responses

    def _count(self, name: str, tokens: int) -> None:
        self.cost[name] = self.cost.get(name, 0) + tokens


def _block(readers: Sequence[_Reader], numbers: Tensor, sampling: Sampling) -> tuple[Tensor, Tensor]:
    """The next tokens of B texts, [B, D], and how many of them count, [B, 1].

    Args:
        readers: the student and, where it has a hand in it, the teacher; both have read all but the last token.
        numbers: in [0, 1), [B, D, 2].
        sampling: how to sample.

    """
    student, teacher = readers[0], readers[-1]
    own, theirs, proposed = student.last, teacher.last, []
    for number in numbers[..., 0].unbind(1):
        distribution = student.read(own)
        if sampling.teacher_mix:
            distribution = torch.lerp(distribution, teacher.read(theirs), sampling.teacher_mix)
        own = theirs = draw(distribution, number[:, None])
        proposed.append(own)
    block = torch.cat(proposed, 1)
    kept = torch.full_like(own, block.shape[1])
    if sampling.verify_top_k:
        distribution = teacher.read(torch.cat([teacher.last, block[:, :-1]], 1))
        likeliest = distribution.topk(min(sampling.verify_top_k, distribution.shape[-1])).indices
        right = (likeliest == block[..., None]).any(-1).long().cumprod(1).sum(1, keepdim=True)
        place = torch.arange(block.shape[1], device=block.device)
        block = torch.where(place == right, draw(distribution, numbers[..., 1]), block)
        kept = (right + 1).clamp_max(block.shape[1])
        for reader in readers:
            reader.keep(place < kept)
    for reader in readers:
        reader.last = block.gather(1, kept - 1)
    return block, kept


def draw(distribution: Tensor, numbers: Tensor) -> Tensor:
    """The inverse of the distribution functions [..., V] at numbers in [0, 1), [...]."""
    cumulated = distribution.double().cumsum(-1)
    places = (numbers * cumulated[..., -1])[..., None]
    return torch.searchsorted(cumulated, places, right=True)[..., 0].clamp_max(distribution.shape[-1] - 1)


class _Reader:
    """A model part of the way through B texts, with cached keys and values; what it read in vain is masked."""

    last: Tensor
    """The token of every text that it is to read next, [B, 1]."""

    def __init__(
        self, model: PreTrainedModel, prompts: Sequence[list[int]], pad: int, temperature: float, vocabulary: int
    ) -> None:
        """Read all but the last token of the prompts."""
        self.model, self.temperature, self.vocabulary = model, temperature, vocabulary
        self._begin(prompts, pad)

    def _begin(self, prompts: Sequence[list[int]], pad: int) -> None:
        ids, mask = padded(prompts, pad, self.model.device)
        self.known = inspect.signature(self.model.forward).parameters
        self.cache: Cache = DynamicCache(config=self.model.config)
        self.mask, self.last = mask[:, :0], ids[:, -1:]
        if ids.shape[1] > 1:
            self._logits(ids[:, :-1], mask[:, :-1], 1)

    def read(self, tokens: Tensor) -> Tensor:
        """Go on by tokens [B, N] and return the softened distribution after each, [B, N, V]."""
        logits = self._logits(tokens, torch.ones_like(tokens), tokens.shape[1])
        return (logits[..., : self.vocabulary].float() / self.temperature).softmax(-1)

    def keep(self, which: Tensor) -> None:
        """Say which of the last N tokens count, [B, N]."""
        self.mask = torch.cat([self.mask[:, : -which.shape[1]], which.to(self.mask.dtype)], 1)

    def _logits(self, tokens: Tensor, mask: Tensor, last: int) -> Tensor:
        before = self.mask.sum(1, keepdim=True)
        self.mask = torch.cat([self.mask, mask], 1)
        places = (before + mask.cumsum(1) - 1).clamp(0, context_length(self.model) - 1)
        options = {"position_ids": places, "logits_to_keep": last}
        output = self.model(
            input_ids=tokens,
            attention_mask=self.mask,
            past_key_values=self.cache,
            use_cache=True,
            **{name: value for name, value in options.items() if name in self.known},
        )
        return output.logits


class _Decoder(_Reader):
    """The second half of an encoder-decoder, whose first has read the prompts.

    Its positions are those of its cache, so it may read nothing in vain: it goes on token by token.
    """

    def _begin(self, prompts: Sequence[list[int]], pad: int) -> None:
        ids, self.mask = padded(prompts, pad, self.model.device, left=False)
        encoder: Any = self.model.get_encoder()
        self.encoded = encoder(input_ids=ids, attention_mask=self.mask)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.last = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)

    def keep(self, which: Tensor) -> None:
        """All of it counts."""

    def _logits(self, tokens: Tensor, _mask: Tensor, _last: int) -> Tensor:
        output = self.model(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        return output.logits


def _reader(
    model: PreTrainedModel, prompts: Sequence[list[int]], tokenizer: PreTrainedTokenizerBase, temperature: float
) -> _Reader:
    kind = _Decoder if model.config.is_encoder_decoder else _Reader
    return kind(model, prompts, tokenizer.pad_token_id, temperature, len(tokenizer))
