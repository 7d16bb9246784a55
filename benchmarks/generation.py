"""Continuous batching by transformers against batches of like length: processor time, peak memory, same greedy texts.

    python benchmarks/generation.py                        # this machine's CPU, a few minutes
    python benchmarks/generation.py --device cuda --dtype bfloat16 --width 2048 --layers 16 --new 512 --prompts 1024

A Llama with random weights decodes prompts of 4 to 63 tokens greedily; one token in --ends ends a text, so that lengths
are uneven. Both are learn/generation.py. Continuous is transformers' `generate_batch`, which has as many texts at
work as a batch has, takes the next one when one ends, and needs flash attention for what it promises: without, every
token is compared with the keys of all texts at work. Both take turns in one process, so that a busy machine slows both;
the first turn warms up and does not count. Prints a Markdown table.
"""

from __future__ import annotations

import argparse
import random
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any


def made(given: argparse.Namespace) -> tuple[Any, Any]:
    """A Llama with random weights, and a tokenizer that knows the words w3, w4, ..."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    known = ["<unk>", "<end>", "<pad>", *(f"w{i}" for i in range(3, given.vocabulary))]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(known)}, unk_token="<unk>"))  # noqa: S106
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, eos_token="<end>", pad_token="<pad>")  # noqa: S106
    config = LlamaConfig(
        vocab_size=given.vocabulary,
        hidden_size=given.width,
        intermediate_size=8 * given.width // 3,
        num_hidden_layers=given.layers,
        num_attention_heads=max(1, given.width // 64),
        num_key_value_heads=max(1, given.width // 64),
        max_position_embeddings=64 + given.new,
        initializer_range=0.1,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = LlamaForCausalLM(config).to(device=given.device, dtype=getattr(torch, given.dtype)).eval()
    model.generation_config.eos_token_id = list(range(1, given.vocabulary, given.ends))
    return model, tokenizer


def ways(given: argparse.Namespace) -> dict[str, Callable[[], list[Sequence[int]]]]:
    """Each way to generate: what it makes of the same prompts, as token ids without the end."""
    from plad_bench.learn import generation

    model, tokenizer = made(given)
    random_ = random.Random(0)
    prompts = [
        " ".join(f"w{random_.randrange(3, given.vocabulary)}" for _ in range(random_.randrange(4, 64)))
        for _ in range(given.prompts)
    ]

    def batched() -> list[Sequence[int]]:
        decoding = generation.Decoding(max_new_tokens=given.new)
        return [r.ids or () for r in generation.generate(model, tokenizer, prompts, decoding)]

    def continuous() -> list[Sequence[int]]:
        decoding = generation.Decoding(max_new_tokens=given.new)
        return [r.ids or () for r in generation.generate(model, tokenizer, prompts, decoding, continuous=True)]

    return {"batched": batched, "continuous": continuous}


def main() -> None:
    """Take turns, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256)
    parser.add_argument("--new", type=int, default=64, help="new tokens at most")
    parser.add_argument("--ends", type=int, default=24, help="one token in so many ends a text")
    parser.add_argument("--vocabulary", type=int, default=4096)
    parser.add_argument("--width", type=int, default=320)
    parser.add_argument("--layers", type=int, default=6)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--turns", type=int, default=5)
    given = parser.parse_args()
    clock = time.process_time if given.device == "cpu" else time.perf_counter
    every = ways(given)
    texts: dict[str, list[Sequence[int]]] = {}
    seconds: dict[str, list[float]] = {name: [] for name in every}
    for turn in range(given.turns + 1):
        for name, way in every.items():
            began = clock()
            texts[name] = way()
            if turn:
                seconds[name].append(clock() - began)
    first = texts["batched"]
    lengths = sorted(map(len, first))
    print(
        f"{given.prompts} prompts; tokens per text: {lengths[0]} to {lengths[-1]}, median {lengths[len(lengths) // 2]}"
    )
    print("| way | seconds (median) | least | most | tokens/s | same texts |")
    print("| :-- | --: | --: | --: | --: | --: |")
    for name, took in seconds.items():
        middle = statistics.median(took)
        same = sum(list(a) == list(b) for a, b in zip(first, texts[name], strict=True))
        rate = sum(map(len, texts[name])) / middle
        print(
            f"| {name} | {middle:.1f} | {min(took):.1f} | {max(took):.1f} | {rate:,.0f} | {same} of {given.prompts} |"
        )


if __name__ == "__main__":
    main()
