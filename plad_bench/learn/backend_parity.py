"""Checks that the backends generate the same text, with a small model made here."""

from __future__ import annotations

import json
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plad_bench.contract.errors import PladBenchError
from plad_bench.learn import vllm_engine, vllm_process
from plad_bench.learn.generation import Decoding, generate
from plad_bench.learn.models import load, save

PROMPTS = tuple("A walk along the river and over the old bridge."[: 3 * n] for n in range(1, 17))
"""Of different lengths: transformers pads a batch of them, vLLM packs it."""
DECODING = Decoding(max_new_tokens=24)
_ENDS = {"bos_token": "<s>", "eos_token": "</s>"}


def main() -> None:
    """Print the result of `compare` as the last line, as JSON, or {error}."""
    threading.Thread(target=vllm_process.end_with_parent, daemon=True).start()
    try:
        found = compare("cuda:0" if torch.cuda.is_available() else "cpu")
    except PladBenchError as error:
        found = {"error": error.message}
    print(json.dumps(found), flush=True)  # noqa: T201  what the caller reads
    os._exit(0)  # a thread that waits for input would block an orderly exit


def compare(device: str) -> dict[str, Any]:
    """{device, prompts, differing}: for each prompt whose responses differ, its text and the number of equal tokens.

    Greedy text, in float32. Raises:
        StageError: if vLLM fails.
    """
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "model"
        _make(path)
        ours = generate(*load(path, device, "float32"), PROMPTS, DECODING)
        (theirs,), _ = vllm_engine.generate(path, device, "float32", PROMPTS, [DECODING])
    differing = [
        (prompt, _agreeing(one.ids or (), other.ids or ()))
        for prompt, one, other in zip(PROMPTS, ours, theirs, strict=True)
        if one != other
    ]
    return {"device": device, "prompts": len(PROMPTS), "differing": differing}


def _agreeing(one: tuple[int, ...], other: tuple[int, ...]) -> int:
    """The number of tokens that two responses share at the beginning."""
    parting: Iterator[int] = (n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b)
    return next(parting, min(len(one), len(other)))


def _make(path: Path) -> None:
    """A Llama of two layers with random weights, heads of 64 dimensions, and a token for every byte."""
    tokens = [*_ENDS.values(), *sorted(pre_tokenizers.ByteLevel.alphabet())]
    spelling = Tokenizer(models.BPE({token: n for n, token in enumerate(tokens)}, []))
    spelling.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    spelling.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=len(tokens),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        initializer_range=0.2,  # ten times the usual, so that rounding never changes the most likely token
        bos_token_id=0,
        eos_token_id=1,
    )
    torch.manual_seed(0)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=spelling, **_ENDS)
    save(LlamaForCausalLM(config), tokenizer, path)


if __name__ == "__main__":
    main()
