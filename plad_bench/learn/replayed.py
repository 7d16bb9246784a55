"""Reads texts token by token on a GPU by replaying a CUDA graph.

A pass over one token launches some 20 kernels per layer, and launching most of them takes longer than running them. A
CUDA graph launches all of them at once. Its tensors must keep their shapes and addresses: a token attends to all
allocated columns of keys and values, with unwritten ones masked, and finished texts stay in the batch.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, DynamicCache, PreTrainedModel
from transformers.cache_utils import DynamicLayer

from plad_bench.learn.incremental import Attention

_refused: weakref.WeakSet[PreTrainedModel] = weakref.WeakSet()
"""Models whose passes could not be recorded."""
_log = logging.getLogger(__name__)


def _grouped(  # noqa: PLR0917  transformers' interface
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor,
    scaling: float | None = None,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention of one token per text, [B, 1, H, D], where groups of heads share keys, without copies of these.

    The heads of a group take the place of several tokens that read the same keys.
    """
    del module, dropout  # without gradient
    grouped = query.unflatten(1, (key.shape[1], -1)).flatten(2, 3)
    found = functional.scaled_dot_product_attention(grouped, key, value, attn_mask=attention_mask, scale=scaling)
    return found.reshape(query.shape).transpose(1, 2), None


_GROUPED = "plad_bench_grouped"
AttentionInterface.register(_GROUPED, _grouped)


def replays(model: PreTrainedModel) -> bool:
    """Whether a model's passes can be recorded: on a GPU, if its layers attend without windows."""
    layers = {type(one) for one in DynamicCache(config=model.config).layers}
    sdpa = model.config._attn_implementation == "sdpa"  # whose masks may be boolean
    return model.device.type == "cuda" and layers == {DynamicLayer} and sdpa and model not in _refused


class Replayed(Attention):
    """Reads the prompts and a first token like `Attention`, and then one token of every text at a time."""

    takes_back = False
    drops = False

    def begin(self, prompts: Sequence[list[int]], pad: int, new: int) -> None:
        """Read all but the last token of B prompts, before at most `new` tokens."""
        self.replay: Callable[[], None] | None = None
        self.started = False
        super().begin(prompts, pad, new)

    def logits(self, tokens: Tensor) -> Tensor:
        """Read tokens [B, 1] and return the logits after each, [B, 1, V], valid until the next call."""
        if not self.started or self.model in _refused:
            self.started = True
            return super().logits(tokens)
        if self.replay is None:
            self._fix(tokens)
            try:
                self.replay = self._record()
            except Exception as error:  # noqa: BLE001  of the GPU's driver or a model's own code, in many ways
                reason = f"{type(error).__name__}: {str(error).strip()}".split("\n", 1)[0]
                _log.warning("%s is read without a CUDA graph: %s", type(self.model).__name__, reason)
                _refused.add(self.model)
                for layer in self.layers:
                    layer.column = None
                return super().logits(tokens)
        self.tokens.copy_(tokens)
        self.replay()
        return self.found

    def _fix(self, tokens: Tensor) -> None:
        """Begin with the tensors that stay in their place."""
        self.tokens, self.position = tokens.clone(), self.count.clone()
        self.column = torch.tensor([self.end], device=tokens.device)
        span = torch.arange(self.room, device=tokens.device)
        self.attended = (self.mask.bool() & (span < self.end))[:, None, None]
        for layer in self.layers:
            layer.column = self.column

    def _record(self) -> Callable[[], None]:
        """Record the pass over a token. A pass before it lets kernels be chosen and memory be allocated."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            self._step()
        torch.cuda.current_stream().wait_stream(stream)
        self._advance(-1)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step()
        return graph.replay

    def _step(self) -> None:
        """Read `tokens`, and advance."""
        self.attended.index_fill_(-1, self.column, True)  # noqa: FBT003
        config = self.model.config.get_text_config()
        usual, config._attn_implementation = config._attn_implementation, _GROUPED
        try:
            self.found: Tensor = self._call(
                input_ids=self.tokens,
                attention_mask=self.attended,
                position_ids=self.position,
                past_key_values=self.cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits
        finally:
            config._attn_implementation = usual
        self._advance(1)

    def _advance(self, columns: int) -> None:
        self.column.add_(columns)
        self.position.add_(columns)
