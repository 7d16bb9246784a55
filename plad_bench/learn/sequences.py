"""From text to batches: encoding of prompts and responses, order of training, collation."""

from __future__ import annotations

import functools
import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.models import PromptFormat
from plad_bench.learn import prompts
from plad_bench.learn.seeds import derive

IGNORED = -100
"""Label of positions without a loss."""


@dataclass(frozen=True)
class Tokens:
    """A prompt and a response as token ids. The response ends with the end token unless it was truncated."""

    prompt: list[int]
    response: list[int]
    teacher: Tokens | None = None
    """The teacher's token ids of the same text, if its tokenizer or its prompts differ."""
    ends: tuple[int, int] | None = None
    """(student's, teacher's) end token, if `teacher` has the same response tokens after another prompt."""

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)

    @property
    def empty(self) -> bool:
        """Whether the response has no tokens, as when it was truncated before its first word."""
        return not self.response or (self.teacher is not None and self.teacher.empty)


@dataclass(frozen=True)
class Batch:
    """B padded sequences of T - 1 predictions. logits[b, t] predicts labels[b, t]."""

    input_ids: Tensor
    """[B, T], right-padded."""
    attention_mask: Tensor
    """[B, T]"""
    labels: Tensor
    """[B, T]: the next token if it belongs to the response, else IGNORED."""
    start: int
    """The first position with a label in any row. No logits before it are needed."""
    teacher: Batch | None = None
    """The teacher's batch of the same texts, if its tokenizer or its prompts differ."""
    ends: tuple[int, int] | None = None
    """As in Tokens."""

    @property
    def valid(self) -> Tensor:
        """[B, T - start], True at labels."""
        return self.labels[:, self.start :] != IGNORED


@dataclass
class Encoder:
    """Encodes prompts and responses as token ids, and counts texts that do not fit."""

    tokenizer: PreTrainedTokenizerBase
    context: int
    counts: dict[str, float] = field(default_factory=dict)
    encoder_decoder: bool = False
    """Whether a prompt is a text of its own with an end token, which an encoder reads."""
    rows: int = 0
    """The number of tokens with an embedding in the model; 0: unknown."""

    @functools.cached_property
    def hash(self) -> str:
        """Equal for tokenizers that encode every text as the same ids."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        text = repr(sorted(self.tokenizer.get_vocab().items())) if backend is None else prompts.behaviour(backend)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @functools.cached_property
    def format(self) -> PromptFormat:
        """How prompts are formatted."""
        return prompts.format_of(self.tokenizer)

    @functools.cached_property
    def chat(self) -> prompts.Chat | None:
        """The chat template, if there is one."""
        return prompts.Chat(self.tokenizer, self.format) if self.tokenizer.chat_template else None

    @functools.cached_property
    def spelling(self) -> prompts.Spelling:
        """Encodes text that may spell control tokens."""
        return prompts.Spelling(self.tokenizer)

    @functools.cached_property
    def end(self) -> int:
        """The token that ends a response: the first control token that the chat template writes after a response.

        Without a template, or without such a token, the tokenizer's end token.
        """
        after = self.chat.after_reply() if self.chat else ""
        ids: Any = self.tokenizer(after, add_special_tokens=False)["input_ids"] if after else []
        return next(iter(self.spelling.controls(ids)), int(self.tokenizer.eos_token_id))

    @functools.cached_property
    def thinking(self) -> prompts.Thinking:
        """How the model marks thinking text."""
        return prompts.Thinking(self.tokenizer)

    def prompt(self, text: str) -> list[int]:
        """Token ids of a prompt, to be followed by the response: the chat template, or the text and a line break."""
        if self.chat:
            return self._counted(*self.spelling.chat(self.chat.render, self.chat.messages(text)))
        text = self.format.instructed(text)
        text = f"{self.format.system}\n\n{text}" if self.format.system else text
        eos = self.tokenizer.eos_token_id
        if self.encoder_decoder:
            ids = self._counted(*self.spelling.text(text, framed=True))
            return ids if ids[-1:] == [eos] else [*ids, eos]
        ids = self._counted(*self.spelling.text(text + "\n", framed=True))
        return ids[:-1] if ids and ids[-1] == eos else ids

    def response(self, response: Response) -> list[int]:
        """Token ids of a response, with the end token if it is finished.

        Ids from this tokenizer are used unchanged. Otherwise the text is encoded, and counted.
        """
        if response.ids is not None and response.tokenizer == self.hash:
            ids = list(response.ids)
        else:
            if response.ids is not None:
                self._count("retokenised_responses")
            ids = self._counted(*self.spelling.text(response.text))
        return [*ids, self.end] if response.finished else ids

    def answer(self, ids: Sequence[int]) -> str | None:
        """A generated text without its thinking text; None if there is nothing to remove."""
        if not self.thinking.known or self.format.thinking == "keep":
            return None
        return self.thinking.answer(ids, begun=self._begins_to_think)

    @functools.cached_property
    def _begins_to_think(self) -> bool:
        """Whether the chat template itself begins thinking text."""
        return self.chat is not None and self.chat.render(self.chat.messages("a")).rstrip().endswith(prompts.THOUGHT)

    def described(self) -> dict[str, Any]:
        """The text and token ids of the prompt "{prompt}", for the record."""
        return self.shown("{prompt}")

    def shown(self, prompt: str) -> dict[str, Any]:
        """The text and token ids that the model is given for a prompt, and the settings that decide them."""
        ids = replace(self, counts={}).prompt(prompt)
        dated = {"date": self.format.date} if self.chat and self.chat.dated else {}
        return {
            "template": "chat" if self.chat else "none",
            "text": self.chat.render(self.chat.messages(prompt)) if self.chat else self.tokenizer.decode(ids),
            "ids": ids,
            "end": self.tokenizer.convert_ids_to_tokens(self.end),
            **dated,
            **({"thinking": self.format.thinking} if self.thinking.known else {}),
        }

    def _counted(self, ids: list[int], control: int) -> list[int]:
        """Return the ids of a text, and count the control tokens that it spells.

        Raises:
            StageError: if the model has no embedding for one of them.
        """
        if control:
            self._count("control_tokens_as_text", control)
        if self.rows and ids and max(ids) >= self.rows:
            token = self.tokenizer.convert_ids_to_tokens(max(ids))
            raise StageError(
                f"a text holds the token {token!r} with id {max(ids)}, and the model has {self.rows} embeddings",
                "Use the tokenizer that belongs to the model.",
            )
        return ids

    def sequence(self, prompt: list[int], response: list[int]) -> Tokens:
        """A prompt and a response, truncated to the context: the response at its end, then the prompt at its start."""
        if len(prompt) + len(response) > self.context:
            self._count("truncated_sequences")
            response = response[: max(1, self.context - len(prompt))]
            prompt = prompt[-(self.context - len(response)) :]
        return Tokens(prompt, response)

    def prompts_like(self, other: Encoder) -> bool:
        """Whether another encoder with the same tokenizer encodes prompts, and ends responses, as this one does."""
        probes = ("a", "b c\nd.")
        quiet = [replace(of, counts={}) for of in (self, other)]
        mine, theirs = ([of.end, *(of.prompt(probe) for probe in probes)] for of in quiet)
        return mine == theirs

    def beside(self, prompt: list[int], response: list[int], teacher: Encoder, teacher_prompt: list[int]) -> Tokens:
        """A prompt and a response, with the same response after a teacher's prompt; both have the same tokenizer.

        Both are truncated to the shorter context, as in `sequence`.
        """
        sides = ((self, prompt), (teacher, teacher_prompt))
        room = max(1, min(of.context - len(ids) for of, ids in sides))
        if len(response) > room or any(len(ids) + len(response) > of.context for of, ids in sides):
            self._count("truncated_sequences")
        response = response[:room]
        its_response = [*response[:-1], teacher.end] if response[-1:] == [self.end] else response
        own, its = (ids[-(of.context - len(response)) :] for of, ids in sides)
        return Tokens(own, response, Tokens(its, its_response), (self.end, teacher.end))

    def _count(self, name: str, number: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + number


class Order:
    """The prompts of every step: `batch` indices, which depend on prompt lengths and seed alone.

    Every epoch is shuffled. Within windows of 16 batches (fewer if an epoch has fewer) prompts of similar length share
    a batch, which saves padding, and the batches of a window are shuffled again. The rest of an epoch begins the next
    window. Responses play no part, so all methods see the same prompts in the same order.
    """

    def __init__(self, lengths: Sequence[int], batch: int, seed: int) -> None:
        """`lengths` has the number of tokens of every prompt."""
        self._lengths, self._batch, self._seed = lengths, batch, seed
        self._batches: list[list[int]] = []
        self._pending: list[int] = []
        self._epoch = 0

    def __getitem__(self, step: int) -> list[int]:
        """The indices of the prompts of a step."""
        while len(self._batches) <= step:
            self._add_epoch()
        return self._batches[step]

    def _add_epoch(self) -> None:
        lengths, batch = self._lengths, self._batch
        window = batch * min(16, max(1, len(lengths) // batch))
        random_ = random.Random(derive(self._seed, "order", self._epoch))
        indices = list(range(len(lengths)))
        random_.shuffle(indices)
        self._pending += indices
        while len(self._pending) >= window:
            taken, self._pending = self._pending[:window], self._pending[window:]
            taken.sort(key=lambda i: lengths[i])
            alike = [taken[i : i + batch] for i in range(0, window, batch)]
            random_.shuffle(alike)
            self._batches += alike
        self._epoch += 1


def pick(count: int, seed: int, step: int, example: str) -> int:
    """The index of the response that a step trains on, of an example's `count`."""
    return derive(seed, "pick", step, example) % count


def micro_batches(sequences: Sequence[Tokens], size: int) -> list[list[int]]:
    """Indices of the sequences in micro-batches of similar length."""
    ordered = sorted(range(len(sequences)), key=lambda i: len(sequences[i]))
    return [ordered[i : i + size] for i in range(0, len(ordered), size)]


def collate(sequences: Sequence[Tokens], pad: int, device: str = "cpu") -> Batch:
    """Pad sequences on the right into a batch. Labels depend on positions, not on ids, so pad may equal eos."""
    longest = max(map(len, sequences))
    ids = torch.full((len(sequences), longest), pad)
    mask = torch.zeros((len(sequences), longest), dtype=torch.long)
    labels = torch.full((len(sequences), longest), IGNORED)
    for row, sequence in enumerate(sequences):
        tokens = torch.tensor(sequence.prompt + sequence.response)
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
        first = len(sequence.prompt) - 1
        labels[row, first : first + len(sequence.response)] = tokens[len(sequence.prompt) :]
    start = min(len(s.prompt) for s in sequences) - 1
    others = [s.teacher for s in sequences if s.teacher is not None]
    teacher = collate(others, 0, device) if others else None  # padding is masked, so any token will do
    return Batch(ids.to(device), mask.to(device), labels.to(device), start, teacher, sequences[0].ends)
