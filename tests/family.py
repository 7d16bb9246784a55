"""A family of pretrained models in small, and a data set for them, as a hub serves them; made in seconds.

A post says what somebody saw, among other things; its summary says it in one sentence. The models have read posts with
summaries in other words, the bigger ones more of them. Their names claim sizes, so that the recipes for pretrained
models apply to them.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path
from typing import Any

import tiny

NAMES = ("anna", "bert", "carl", "dora", "emil", "fred", "gina", "hans")
COLOURS = ("red", "green", "blue", "grey", "black", "white", "pink", "brown")
THINGS = ("door", "lamp", "boat", "coat", "cup", "hat", "key", "map")
PLACES = ("hall", "yard", "attic", "cellar", "shed", "barn", "tower", "garden")
FILLERS = ("It was a long day.", "The sun was low.", "Nobody else came.", "We had some tea.")

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SIZES = {"Toy-30M": (2, 48, 90), "Toy-100M": (2, 56, 90), "Toy-300M": (2, 64, 160)}
"""Name -> layers, width, and steps of pretraining."""
INSTRUCT = "Toy-300M-Instruct"
CONTEXT, BATCH = 128, 32


def post(draw: random.Random) -> tuple[str, str]:
    """A post and its summary."""
    name, colour, thing, place = (draw.choice(words) for words in (NAMES, COLOURS, THINGS, PLACES))
    said = f"{draw.choice(FILLERS)} I met {name} in the {place}. There was a {thing} and it was {colour}."
    return said, f"{name} saw a {colour} {thing} in the {place}."


def rows(count: int, seed: int = 0) -> list[dict[str, str]]:
    """Rows of the data set, each with another post."""
    draw = random.Random(seed)
    found: dict[str, str] = {}
    while len(found) < count:
        text, summary = post(draw)
        found[f"POST: {text}\n\nTL;DR:"] = f" {summary}"
    return [{"prompt": prompt, "completion": completion} for prompt, completion in found.items()]


@functools.cache
def _trained() -> str:
    texts = [" ".join(row.values()) for row in rows(2000, seed=1)]
    return str(tiny.byte_level_bpe(texts, 480, ("<pad>", "<|end|>", "<|im_start|>", "<|im_end|>")).to_str())


def tokenizer(template: str | None = None) -> Any:
    """A byte-level BPE in which most words of posts are tokens."""
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    end = "<|im_end|>" if template else "<|end|>"
    made = PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(_trained()), pad_token="<pad>", eos_token=end)
    made.chat_template = template
    return made


def pretrained(name: str) -> Any:
    """A base model, which has read posts and what people say of them in other words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    layers, width, steps = SIZES[name]
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=480, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=CONTEXT, tie_word_embeddings=True,
            initializer_range=0.1, pad_token_id=0, eos_token_id=1, bos_token_id=None,
        )
    )  # fmt: skip
    draw = random.Random(2)
    forms = ("{} In short, {}<|end|>", "POST: {}\n\nTL;DR:\n{}<|end|>")
    _train(model, lambda: draw.choice(forms).format(*post(draw)), steps)
    return model


def instructed(model: Any) -> Any:
    """A copy of a base model that answers in its chat template."""
    import copy

    made, draw = copy.deepcopy(model), random.Random(3)

    def text() -> str:
        said, summary = post(draw)
        turn = f"<|im_start|>user\nPOST: {said}\n\nTL;DR:<|im_end|>\n<|im_start|>assistant\n"
        return f"{turn}{summary}<|im_end|>\n"

    _train(made, text, 30)
    return made


def _train(model: Any, text: Any, steps: int) -> None:
    import torch

    encode = tokenizer()
    rates = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for number in range(steps):
        for group in rates.param_groups:
            group["lr"] = 3e-3 * min(1, (number + 1) / 20, 2 * (steps - number) / steps)
        batch = encode([text() for _ in range(BATCH)], return_tensors="pt", padding=True)
        labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
        loss = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], labels=labels).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        rates.step()
        rates.zero_grad()
    model.eval()


def make(directory: Path) -> dict[str, Path]:
    """Write the family and the data set: name on the hub -> directory."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from plad_bench.learn import models

    made = {}
    for name in SIZES:
        model = pretrained(name)
        models.save(model, tokenizer(), directory / name)
        made[f"toy/{name}"] = directory / name
    models.save(instructed(model), tokenizer(CHAT), directory / INSTRUCT)
    made[f"toy/{INSTRUCT}"] = directory / INSTRUCT
    (directory / "tldr").mkdir()
    pq.write_table(pa.Table.from_pylist(rows(800)), directory / "tldr" / "train.parquet")
    made["trl-lib/tldr"] = directory / "tldr"
    return made
