"""Samples on-policy text from the student during training, with or without the teacher.

One loop for all: the student proposes tokens from its distribution or from a mixture with the teacher's; if requested,
the teacher verifies every few of them and replaces the first one that it rejects. Finished texts leave the batch. No
gradient flows, and torch's random state is neither read nor changed: a token is the inverse of its distribution
function at a number that depends on (seed, step, example, position), whatever else is in the batch.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.objectives import Sampling
from plad_bench.learn import ranks, sampling_check
from plad_bench.learn.generation import check_room
from plad_bench.learn.incremental import Reader, reader
from plad_bench.learn.memory import fit, slices
from plad_bench.learn.models import encoder, end_tokens, evaluating
from plad_bench.learn.replayed import Replayed, replays
from plad_bench.learn.seeds import derive

_LOOK_EVERY = 16
"""Tokens between two checks for finished texts, if the host has to wait for a device."""
_LEAVE = 8
"""Finished texts leave the batch when they are one in this many."""
_SUMMED = 128
"""Probabilities that `draw` sums at a time before it searches the sums, for large vocabularies."""


class Sampler(Protocol):
    """Samples responses from the student's current weights."""

    @property
    def elsewhere(self) -> float:
        """Device-seconds so far of other processes, which the clock of this process does not count."""

    def check(self, prompts: Sequence[list[int]]) -> None:
        """Check that every prompt leaves room for a response.

        Raises:
            StageError: if one does not.
        """

    def sample(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        """A response to each prompt as token ids, with its end token unless it was truncated.

        Args:
            prompts: token ids.
            examples: the id of each prompt's example.
            step: the number of the optimiser step.
            sampling: how to sample.

        """

    def close(self) -> None:
        """Stop what the sampler has started."""


@dataclass
class Rollouts:
    """A sampler that runs the student in the training process and counts tokens."""

    student: PreTrainedModel
    teacher: PreTrainedModel | None
    tokenizer: PreTrainedTokenizerBase
    max_new_tokens: int
    seed: int
    precision: str = "float32"
    cost: dict[str, float] = field(default_factory=dict)
    """Counts tokens_generated and teacher_tokens_scored."""
    memory_policy: MemoryPolicy = field(default_factory=MemoryPolicy)
    """How to reduce memory."""
    teacher_prompts: Mapping[tuple[int, ...], list[int]] | None = None
    """Token ids of a prompt -> the teacher's token ids of it, if they differ."""
    ends: tuple[int, int] | None = None
    """The end tokens of student and teacher, if they differ."""
    checked: set[tuple[bool, bool]] = field(default_factory=set, init=False)
    """The uses of the teacher for which the first texts were checked against the models without a cache."""
    elsewhere: float = field(default=0.0, init=False)
    """It samples in this process."""

    @functools.cached_property
    def end_tokens(self) -> set[int]:
        """The tokens that end a response."""
        return end_tokens(self.student.generation_config, self.tokenizer)

    def check(self, prompts: Sequence[list[int]]) -> None:
        """Check that every prompt leaves room for a response, in the student and in the teacher if it reads texts.

        Raises:
            StageError: if one does not.
        """
        for model, role in ((self.student, "student"), (self.teacher, "teacher")):
            if model is not None:
                given = prompts if role == "student" else self._for_teacher(prompts)
                check_room(encoder(model, self.tokenizer), given, self.max_new_tokens, f"the {role}'s context")

    def _for_teacher(self, prompts: Sequence[list[int]]) -> Sequence[list[int]]:
        """The teacher's prompts."""
        return prompts if self.teacher_prompts is None else [self.teacher_prompts[tuple(prompt)] for prompt in prompts]

    @torch.no_grad()
    def sample(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        """A response to each prompt as token ids, with its end token unless it was truncated.

        The first texts are checked against the models without a cache (`learn/sampling_check.py`).

        Args:
            prompts: token ids.
            examples: the id of each prompt's example.
            step: the number of the optimiser step.
            sampling: how to sample.

        Raises:
            StageError: if that check fails, or a single response exceeds the memory.
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
            made: dict[int, list[int]] = {}
            for rows in self._batches(prompts, size, sampling):
                texts = self._sample([prompts[i] for i in rows], noise[list(rows)], sampling)
                made |= zip(rows, texts, strict=True)
            return [made[i] for i in range(len(prompts))]

        with self.reading():
            return fit(responses, len(prompts), self.memory_policy, what="sampling one response")

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Within, the student is in eval mode and computes in the precision of the sampling."""
        autocast = torch.autocast(self.student.device.type, torch.bfloat16, enabled=self.precision == "bf16")
        with evaluating(self.student), autocast:
            yield

    def close(self) -> None:
        """It has started nothing."""

    def _batches(self, prompts: Sequence[list[int]], size: int, sampling: Sampling) -> list[Sequence[int]]:
        """Indices of prompts that are sampled together, `size` at a time, of equal length if a model requires that."""
        pads = all(one.pads for one in self._readers(sampling))
        alike: dict[tuple[int, ...], list[int]] = {}
        for i, both in enumerate(zip(prompts, self._for_teacher(prompts), strict=True)):
            alike.setdefault(() if pads else tuple(map(len, both)), []).append(i)
        return [rows for group in alike.values() for rows in slices(group, size)]

    def _readers(self, sampling: Sampling) -> list[Reader]:
        """The student and, if the sampling uses it, the teacher."""
        models: list[tuple[PreTrainedModel, tuple[int, int] | None]] = [(self.student, None)]
        if self.teacher is not None and sampling.uses_teacher:
            models.append((self.teacher, self.ends))
        words = len(self.tokenizer)
        if not sampling.verify_top_k and all(replays(model) for model, _ in models):
            return [Replayed(model, sampling.temperature, words, ends) for model, ends in models]
        return [reader(model, sampling.temperature, words, ends) for model, ends in models]

    def _noise(self, step: int, example: str) -> Tensor:
        """Two numbers in [0, 1) per position: for the student's proposal, and for the teacher's replacement."""
        generator = torch.Generator().manual_seed(derive(self.seed, "rollout", step, example))
        return torch.rand(self.max_new_tokens, 2, dtype=torch.float64, generator=generator)

    def _sample(self, prompts: Sequence[list[int]], noise: Tensor, sampling: Sampling) -> list[list[int]]:
        readers = self._readers(sampling)
        for one, given in zip(readers, (prompts, self._for_teacher(prompts)), strict=False):
            one.begin(given, self.tokenizer.pad_token_id, self.max_new_tokens)
        use = (bool(sampling.teacher_mix), bool(sampling.verify_top_k))
        traced = 0 if use in self.checked else len(readers)
        texts = _Texts(noise, self.end_tokens, traced)
        draft = sampling.draft if sampling.verify_top_k and all(one.takes_back for one in readers) else 1
        look = 1 if draft > 1 or noise.device.type == "cpu" else _LOOK_EVERY
        share = 0 if draft > 1 else _LEAVE if all(one.drops for one in readers) else 1
        scored = torch.zeros((), dtype=torch.long, device=noise.device)
        for turn in itertools.count(1):
            size = min(draft, self.max_new_tokens - texts.longest)
            if len(readers) > 1:
                scored += size * texts.open.sum()
            texts.add(*_block(readers, texts.numbers(size), sampling, traced=bool(traced)))
            if turn % look and texts.longest < self.max_new_tokens:
                continue
            staying = texts.leave(share)
            if not texts.rows:
                break
            if staying is not None:
                for one in readers:
                    one.drop(staying)
        responses = [texts.made[i] for i in range(len(prompts))]
        if traced:
            self._compare(readers, prompts, responses, texts.traces)
            self.checked.add(use)
        self.count("tokens_generated", sum(map(len, responses)))
        self.count("teacher_tokens_scored", int(scored))
        return responses

    def _compare(
        self,
        readers: Sequence[Reader],
        prompts: Sequence[list[int]],
        responses: Sequence[list[int]],
        traces: Mapping[int, Tensor],
    ) -> None:
        """Check that the first texts were drawn from the models' own distributions.

        Raises:
            StageError: if they were not.
        """
        sides = (("student", prompts), ("teacher", self._for_teacher(prompts)))
        for n, (one, (role, given)) in enumerate(zip(readers, sides, strict=False)):
            dtype = torch.bfloat16 if self.precision == "bf16" else torch.float32
            texts = [(given[i], responses[i], traces[i][:, n]) for i in sampling_check.chosen(prompts)]
            sampling_check.check(one, role, texts, dtype)

    def count(self, name: str, tokens: int) -> None:
        """Add to a cost."""
        self.cost[name] = self.cost.get(name, 0) + tokens


class _Texts:
    """Responses in progress: B in the batch, and the finished ones."""

    def __init__(self, noise: Tensor, ends: set[int], traced: int) -> None:
        """Start P responses.

        Args:
            noise: the random numbers of their tokens, [P, T, 2] for at most T tokens.
            ends: tokens that end a response.
            traced: number of models whose probabilities of each token are kept.

        """
        self.most = noise.shape[1]
        self.rows = list(range(len(noise)))
        """The response of each row of the batch."""
        self.longest = 0
        """Tokens of the longest unfinished response, or an upper bound if one has finished since."""
        self.made: dict[int, list[int]] = {}
        self.traces: dict[int, Tensor] = {}
        self._noise, self._ends = noise, torch.tensor(sorted(ends), device=noise.device)
        self._tokens = torch.zeros(noise.shape[:2], dtype=torch.long, device=noise.device)
        self._trace = noise.new_full((*noise.shape[:2], traced), float("nan"), dtype=torch.float32)
        self._lengths = torch.zeros(len(noise), 1, dtype=torch.long, device=noise.device)
        self.open = torch.ones(len(noise), 1, dtype=torch.bool, device=noise.device)
        """The unfinished rows, [B, 1]."""

    def numbers(self, size: int) -> Tensor:
        """The random numbers of the next tokens, [B, size, 2]."""
        return self._noise.gather(1, self._places(size)[..., None].expand(-1, -1, 2))

    def _places(self, size: int) -> Tensor:
        return self._lengths if size == 1 else self._lengths + torch.arange(size, device=self._lengths.device)

    def add(self, block: Tensor, kept: Tensor, trace: Tensor | None) -> None:
        """Append the first `kept` [B, 1] of the tokens in `block` [B, D], up to an end; `trace` is [B, D, models]."""
        places = self._places(block.shape[1])
        self._tokens.scatter_(1, places, block)
        if trace is not None:
            self._trace.scatter_(1, places[..., None].expand_as(trace), trace)
        ending = (block[..., None] == self._ends).any(-1)
        if block.shape[1] > 1:  # up to the end token, or the last kept one
            ending &= places < self._lengths + kept
            ended = ending.any(1, keepdim=True)
            kept = torch.where(ended, ending.int().argmax(1, keepdim=True) + 1, kept)
            ending = ended
        self._lengths = self._lengths + kept * self.open
        self.open = self.open & ~ending & (self._lengths < self.most)
        self.longest += block.shape[1]

    def leave(self, share: int = 0) -> Tensor | None:
        """Remove finished rows once they are one in `share`. Return the remaining rows, or None if all remain."""
        going = self.open[:, 0].tolist()
        ended = [n for n, goes in enumerate(going) if not goes]
        if not share:  # texts may grow by different numbers of tokens
            self.longest = int((self._lengths * self.open).max())
        if not ended or (share and len(ended) < len(going) and len(ended) * share < len(going)):
            return None
        lengths, tokens = self._lengths[:, 0].tolist(), self._tokens[ended].tolist()
        for n, response in zip(ended, tokens, strict=True):
            self.made[self.rows[n]] = response[: lengths[n]]
            self.traces[self.rows[n]] = self._trace[n, : lengths[n]]
        self.rows = [self.rows[n] for n, goes in enumerate(going) if goes]
        stay = torch.tensor([n for n, goes in enumerate(going) if goes], dtype=torch.long, device=self.open.device)
        for name in ("_noise", "_tokens", "_trace", "_lengths", "open"):
            setattr(self, name, getattr(self, name)[stay])
        return stay


def _block(
    readers: Sequence[Reader], numbers: Tensor, sampling: Sampling, *, traced: bool
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The next tokens of B texts, [B, D], how many of them count, [B, 1], and each model's probability of each.

    The last is [B, D, models], NaN at replaced proposals, and None unless requested.

    Args:
        readers: the student and, if used, the teacher; both have read all but the last token.
        numbers: in [0, 1), [B, D, 2].
        sampling: how to sample.
        traced: whether to return probabilities.

    """
    student, teacher = readers[0], readers[-1]
    begin, own, theirs = teacher.last, student.last, teacher.last
    proposed, traces = [], []
    for number in numbers[..., 0].unbind(1):
        distributions = [student.read(own)]
        mixture = distributions[0]
        if sampling.teacher_mix:
            distributions.append(teacher.read(theirs))
            mixture = torch.lerp(mixture, distributions[1], sampling.teacher_mix)
        own = theirs = draw(mixture, number[:, None])
        proposed.append(own)
        if traced:
            traces.append(torch.cat([d.gather(-1, own[..., None]) for d in distributions], -1))
    block, trace = torch.cat(proposed, 1), torch.cat(traces, 1) if traced else None
    kept = torch.full_like(own, block.shape[1])
    for one in readers:
        one.last = own
    if sampling.verify_top_k:
        distribution = teacher.read(torch.cat([begin, block[:, :-1]], 1))
        likeliest = distribution.topk(min(sampling.verify_top_k, distribution.shape[-1])).indices
        right = (likeliest == block[..., None]).any(-1).long().cumprod(1).sum(1, keepdim=True)
        place = torch.arange(block.shape[1], device=block.device)
        block = torch.where(place == right, draw(distribution, numbers[..., 1]), block)
        kept = (right + 1).clamp_max(block.shape[1])
        if trace is not None:
            trace = trace.masked_fill((place == right)[..., None], float("nan"))
            trace = torch.cat([trace, distribution.gather(-1, block[..., None])], -1)
        for one in readers:
            one.keep(kept, block.shape[1])
            one.last = block.gather(1, kept - 1)
    return block, kept, trace


def draw(distribution: Tensor, numbers: Tensor) -> Tensor:
    """The inverse of the distribution functions [..., V] at numbers in [0, 1), [...]; sums are in float64."""
    size = distribution.shape[-1]
    if size > 64 * _SUMMED:
        return _draw_in_parts(distribution, numbers)
    cumulated = distribution.cumsum(-1, dtype=torch.float64)
    places = (numbers * cumulated[..., -1])[..., None]
    return torch.searchsorted(cumulated, places, right=True)[..., 0].clamp_max(size - 1)


def _draw_in_parts(distribution: Tensor, numbers: Tensor) -> Tensor:
    """As `draw`, with fewer numbers in float64: it searches partial sums first."""
    if missing := -distribution.shape[-1] % _SUMMED:
        distribution = nn.functional.pad(distribution, (0, missing))
    parts = distribution.unflatten(-1, (-1, _SUMMED))
    sums = parts.sum(-1, dtype=torch.float64).cumsum(-1)
    places = numbers[..., None] * sums[..., -1:]
    part = torch.searchsorted(sums, places, right=True).clamp_max(sums.shape[-1] - 1)
    chosen = parts.take_along_dim(part[..., None], -2)[..., 0, :].cumsum(-1, dtype=torch.float64)
    before = nn.functional.pad(sums, (1, 0)).gather(-1, part)
    # Rounding may place a number at the very end of a part: then its last possible token is drawn.
    inside = (places - before).minimum(chosen[..., -1:].nextafter(chosen.new_zeros(())))
    return (part * _SUMMED + torch.searchsorted(chosen, inside, right=True))[..., 0]
