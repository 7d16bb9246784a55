"""Reads a batch of texts token by token, with the state that a model keeps between tokens.

A reader can drop texts from its batch and, if the state allows it, take back tokens that it has read:

| reader | models | state | takes tokens back | prompts of several lengths |
| :-- | :-- | :-- | :-- | :-- |
| `Attention` | decoders whose layers attend, with sliding windows too | keys and values of every token | yes | yes |
| `Replayed` | the same without windows, on a GPU (`learn/replayed.py`) | the same, in fixed columns | no | yes |
| `Decoder` | encoder-decoders | the same, and the encoded prompt | no | yes |
| `Recurrent` | recurrent and convolutional layers, alone or among others | transformers' own cache | no | no |
| `Rereading` | models with a cache of their own kind | none: each text is read again for each token | no | no |
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache, EncoderDecoderCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from plad_bench.learn.generation import padded
from plad_bench.learn.teacher_cache import exchanged


class Reader(ABC):
    """A model that has read a part of B texts."""

    takes_back = False
    """Whether `keep` can take tokens back; a reader that cannot is given one token at a time."""
    drops = True
    """Whether `drop` can remove texts from the batch."""
    pads = True
    """Whether the prompts of a batch may differ in length."""

    last: Tensor
    """The next token to read of each text, [B, 1]."""

    def __init__(
        self, model: PreTrainedModel, temperature: float, vocabulary: int, ends: tuple[int, int] | None = None
    ) -> None:
        """Wrap a model.

        Args:
            model: in eval mode.
            temperature: divides logits before the softmax.
            vocabulary: logits beyond this index are dropped.
            ends: the end tokens of student and teacher, for a teacher's reader whose end token differs.

        """
        self.model, self.temperature, self.vocabulary, self.ends = model, temperature, vocabulary, ends
        self.known = inspect.signature(model.forward).parameters

    @abstractmethod
    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Read all but the last token of B prompts, before at most `new` tokens."""

    @abstractmethod
    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, N] and return the logits after each, [B, N, V]."""

    @abstractmethod
    def select(self, rows: Tensor) -> None:
        """Keep the state of some texts, given their rows in the batch, [R]."""

    def read(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, N] and return the softened distribution after each, [B, N, V]."""
        return self.softened(self.logits(tokens)).softmax(-1)

    def softened(self, logits: Tensor) -> Tensor:
        """Softened logits of the vocabulary, [..., V]."""
        return exchanged(logits[..., : self.vocabulary].float() / self.temperature, self.ends)

    def keep(self, kept: Tensor, read: int) -> None:
        """Take back all but the first `kept` [B, 1] of the last `read` tokens."""
        if read > 1:
            raise NotImplementedError

    def drop(self, rows: Tensor) -> None:
        """Keep some texts, [R]."""
        self.last = self.last[rows]
        self.select(rows)

    def _call(self, **arguments: Any) -> Any:
        """The model's output for the arguments that it accepts."""
        return self.model(**{name: value for name, value in arguments.items() if name in self.known})


def reader(model: Any, temperature: float, vocabulary: int, ends: tuple[int, int] | None = None) -> Reader:
    """The reader for a transformers model (arguments: see `Reader`); call its `begin` first."""
    kind: type[Reader]
    if model.config.is_encoder_decoder:
        kind = Decoder
    elif not (model._supports_default_dynamic_cache() and _CACHES & set(inspect.signature(model.forward).parameters)):
        kind = Rereading
    elif model._is_stateful or {type(one) for one in DynamicCache(config=model.config).layers} - _ATTENDING:
        kind = Recurrent
    else:
        kind = Attention
    return kind(model, temperature, vocabulary, ends)


_CACHES = {"past_key_values", "cache_params"}
"""Names of the argument for a model's cache."""
_ATTENDING = {DynamicLayer, DynamicSlidingWindowLayer}
"""transformers' layers with keys and values alone. Windows are in the attention mask, so all layers can be kept."""


class Attention(Reader):
    """Keeps keys and values of every token, in memory that is allocated at the start.

    Every text ends in the last column, the longest begins in the first, and padding precedes the others. When a text
    keeps fewer tokens than another, its keys move to the right, so that distances between columns equal those between
    positions, as sliding windows need.
    """

    takes_back = True

    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Read all but the last token of B prompts, before at most `new` tokens."""
        ids, mask = padded(prompts, pad, self.model.device)
        room, count = ids.shape[1] + new, len(DynamicCache(config=self.model.config).layers)
        self.layers = [_Layer(room) for _ in range(count)]
        self.cache = Cache(layers=list(self.layers))
        self.end, self.room = 0, room
        self.count = torch.zeros_like(ids[:, :1])
        """Tokens of each text that were read, [B, 1]."""
        self.mask = mask.new_ones(len(prompts), room)
        self.mask[:, : ids.shape[1]] = mask
        self.padding = max(map(len, prompts)) > min(map(len, prompts))
        self.last = ids[:, -1:]
        if ids.shape[1] > 1:
            self._read(ids[:, :-1], 1)

    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, N] and return the logits after each, [B, N, V]."""
        return self._read(tokens, tokens.shape[1])

    def _read(self, tokens: Tensor, last: int) -> Tensor:
        begin, self.end = self.end, self.end + tokens.shape[1]
        counts = self.count + self.mask[:, begin : self.end].cumsum(1)
        self.count = counts[:, -1:]
        output = self._call(
            input_ids=tokens,
            attention_mask=self.mask[:, : self.end] if self.padding else None,
            position_ids=(counts - 1).clamp_min(0),
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=last,
        )
        logits: Tensor = output.logits
        return logits

    def keep(self, kept: Tensor, read: int) -> None:
        """Take back all but the first `kept` [B, 1] of the last `read` tokens."""
        back = read - kept
        self.count = self.count - back
        self._align(self.end - back)

    def select(self, rows: Tensor) -> None:
        """Keep the state of some texts, given their rows in the batch, [R]."""
        self.count, self.mask = self.count[rows], self.mask[rows]
        for layer in self.layers:
            layer.select(rows, self.end)
        self._align(torch.full_like(self.count, self.end))

    def _align(self, ends: Tensor) -> None:
        """Move texts that end before these columns, [B, 1], to the end."""
        least, self.end = (int(value) for value in self.count.aminmax())
        self.padding = least < self.end
        span = torch.arange(self.room, device=ends.device)
        self.mask = (span >= self.end - self.count).to(self.mask.dtype)
        away = ends - self.end
        rows = away[:, 0].nonzero()
        source = (span[: self.end] + away[rows[:, 0]]).clamp_min(0)
        for layer in self.layers:
            layer.move(rows, source)


class _Layer(DynamicLayer):
    """Keys and values of a layer, [B, H, T, D], within larger allocated memory."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room, self.end = room, 0
        self.column: Tensor | None = None
        """The column that the next token is written to, [1], if all columns are attended to, some of them masked."""

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Append keys and values [B, H, N, D], and return all, [B, H, T, D].

        Under autocast they are kept as attention reads them: rotary positions widen keys to float32.
        """
        kind = key_states.device.type
        if torch.is_autocast_enabled(kind):
            key_states, value_states = (s.to(torch.get_autocast_dtype(kind)) for s in (key_states, value_states))
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.stores = [s.new_zeros(*s.shape[:2], self.room, s.shape[3]) for s in (key_states, value_states)]
        if self.column is not None:
            for store, states in zip(self.stores, (key_states, value_states), strict=True):
                store.index_copy_(2, self.column, states)
            return self.stores[0], self.stores[1]
        begin, self.end = self.end, self.end + key_states.shape[2]
        for store, states in zip(self.stores, (key_states, value_states), strict=True):
            store[:, :, begin : self.end] = states
        return self._show()

    def _show(self) -> tuple[Tensor, Tensor]:
        self.keys, self.values = keys, values = self.stores[0][:, :, : self.end], self.stores[1][:, :, : self.end]
        return keys, values

    def move(self, rows: Tensor, source: Tensor) -> None:
        """Set the end of all texts to T, and fill rows [R, 1] from their columns `source`, [R, T]."""
        self.end = source.shape[1]
        if self.is_initialized:
            for store in self.stores:
                if len(rows):
                    store[rows[:, 0], :, : self.end] = store[rows, :, source].transpose(1, 2)
            self._show()

    def select(self, rows: Tensor, end: int) -> None:
        """Keep some texts, [R], up to a column."""
        if self.is_initialized:
            stores, self.stores = self.stores, [s.new_zeros(len(rows), *s.shape[1:]) for s in self.stores]
            for store, old in zip(self.stores, stores, strict=True):
                store[:, :, :end] = old[rows, :, :end]


class Decoder(Reader):
    """The decoder of an encoder-decoder, whose encoder has read the prompts."""

    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Encode B prompts."""
        ids, self.mask = padded(prompts, pad, self.model.device, left=False)
        encoder: Any = self.model.get_encoder()
        self.encoded = encoder(input_ids=ids, attention_mask=self.mask)
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
        self.last = torch.full_like(ids[:, :1], self.model.config.decoder_start_token_id)

    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, 1] and return the logits after each, [B, 1, V]."""
        output = self._call(
            encoder_outputs=self.encoded,
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        logits: Tensor = output.logits
        return logits

    def select(self, rows: Tensor) -> None:
        """Keep the state of some texts, given their rows in the batch, [R]."""
        self.mask = self.mask[rows]
        self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # integers are all that it asks for


class Recurrent(Reader):
    """Keeps transformers' own cache, whose state of some layers cannot be taken back.

    Padding changes such layers' state, so all prompts of a batch have one length.
    """

    pads = False

    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Read all but the last token of B prompts of one length."""
        ids = torch.tensor(list(prompts), device=self.model.device)
        (self.name,) = _CACHES & set(self.known)
        self.cache, self.length = DynamicCache(config=self.model.config), 0
        self.last = ids[:, -1:]
        if ids.shape[1] > 1:
            self.logits(ids[:, :-1])

    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, N] and return the logits after each, [B, N, V]."""
        begin, self.length = self.length, self.length + tokens.shape[1]
        places = torch.arange(begin, self.length, device=tokens.device).expand_as(tokens)
        output = self._call(input_ids=tokens, position_ids=places, use_cache=True, **{self.name: self.cache})
        logits: Tensor = output.logits
        return logits

    def select(self, rows: Tensor) -> None:
        """Keep the state of some texts, given their rows in the batch, [R]."""
        self.cache.reorder_cache(rows)  # type: ignore[arg-type]  # integers are all that it asks for


class Rereading(Reader):
    """Reads the whole text again for every token: slow, and correct for any model."""

    pads = False

    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Start with B prompts of one length."""
        ids = torch.tensor(list(prompts), device=self.model.device)
        self.text, self.last = ids[:, :-1], ids[:, -1:]

    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, N] and return the logits after each, [B, N, V]."""
        self.text = torch.cat([self.text, tokens], 1)
        output = self._call(input_ids=self.text, use_cache=False, logits_to_keep=tokens.shape[1])
        logits: Tensor = output.logits
        return logits[:, -tokens.shape[1] :]

    def select(self, rows: Tensor) -> None:
        """Keep the state of some texts, given their rows in the batch, [R]."""
        self.text = self.text[rows]
