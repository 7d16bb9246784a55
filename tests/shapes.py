"""Tokenizers made by hand in the shapes of published ones: what they add, how they spell, and their chat templates."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import pytest
import tiny

from plad_bench.contract.models import PromptFormat
from plad_bench.learn import prompts
from plad_bench.learn.sequences import Encoder

LLAMA3 = (
    "{% if strftime_now is defined %}{% set today = strftime_now('%d %b %Y') %}{% else %}{% set today = '-' %}"
    "{% endif %}"
    "{{ bos_token }}{% set said = '' %}"
    "{% if messages[0].role == 'system' %}{% set said = messages[0].content|trim %}{% set messages = messages[1:] %}"
    "{% endif %}<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ today }}\n\n{{ said }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content|trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
CHATML = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are a helpful model.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
QWEN3 = (
    "{% for m in messages %}{% set content = m.content %}"
    "{% if m.role == 'assistant' and '</think>' in content %}{% set content = content.split('</think>')[-1] %}"
    "{% endif %}<|im_start|>{{ m.role }}\n{{ content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n"
    "{{ m.content | trim }}<end_of_turn>\n{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }}[/INST]"
    "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)


@dataclass(frozen=True)
class Shape:
    """A published tokenizer's shape, and what is right for it."""

    name: str
    made: Any
    end: str
    """What ends a response."""
    control: tuple[str, ...]
    """Control tokens that a text may spell."""
    begins: str = ""
    """What begins a prompt, once."""
    system: bool = True
    """Whether a system prompt can be given."""


def _bytes(special: tuple[str, ...], plain: tuple[str, ...] = (), *, bos: str = "", ignore_merges: bool = False) -> Any:
    """A byte-level BPE with tokens added beyond its vocabulary, special or not."""
    from tokenizers import AddedToken, processors

    made = tiny.byte_level_bpe([tiny.sentence(i, 12) for i in range(20)], 320, ignore_merges=ignore_merges)
    made.add_tokens([AddedToken(token, special=False, normalized=False) for token in plain])
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    if bos:
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
        )
    return made


def _pieces(special: tuple[str, ...], bos: str, *, metaspace: bool) -> Any:
    """A BPE of the kind converted from SentencePiece: bytes as a fall-back, spaces as ▁, controls in its vocabulary."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    words = sorted({word for i in range(20) for word in tiny.sentence(i, 12).split()})
    letters = [*"abcdefghijklmnopqrstuvwxyz<>/|_[]INSTH1.,:", "▁", "\n"]
    vocabulary = {token: n for n, token in enumerate([*special, "<unk>", *(f"<0x{i:02X}>" for i in range(256))])}
    merges: list[tuple[str, str]] = []
    for token in letters:
        vocabulary.setdefault(token, len(vocabulary))
    for word in [*words, *special]:  # as a conversion does that knows no difference between pieces and controls
        for n in range(2, len(word) + 1):
            if word[: n - 1] in vocabulary and word[n - 1] in vocabulary:
                vocabulary.setdefault(word[:n], len(vocabulary))
                merges.append((word[: n - 1], word[n - 1]))
    merges = list(dict.fromkeys(merges))
    made = Tokenizer(models.BPE(vocabulary, merges, byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    if metaspace:
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        made.decoder = decoders.Sequence(
            [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
        )
    else:
        made.normalizer = normalizers.Replace(" ", "▁")
        made.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    made.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (*special, "<unk>")])
    made.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, made.token_to_id(bos))]
    )
    return made


def _unigram() -> Any:
    """As T5's: a unigram model whose vocabulary holds its control tokens, and an end after every text."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    special = ["<pad>", "</s>", "<unk>", "<extra_id_0>"]
    words = sorted({word for i in range(20) for word in tiny.sentence(i, 12).split()})
    letters = [*"abcdefghijklmnopqrstuvwxyz<>/|_[]01.,:", "▁"]
    pieces = [(t, 0.0) for t in special] + [(f"▁{w}", -3.0) for w in words] + [(c, -6.0) for c in letters]
    made = Tokenizer(models.Unigram(pieces, unk_id=2))
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace(prepend_scheme="always")
    made.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    made.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return made


def _fast(backend: Any, template: str | None = None, **named: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    made = PreTrainedTokenizerFast(tokenizer_object=backend, **named)
    made.chat_template = template
    return made


def _llama3() -> Any:
    special = ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
    backend = _bytes(special, bos="<|begin_of_text|>", ignore_merges=True)
    return _fast(backend, LLAMA3, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>")


def _qwen(template: str, plain: tuple[str, ...] = ()) -> Any:
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    named = {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"}
    return _fast(_bytes(special, plain), template, **named)


def _smollm2() -> Any:
    named = {"bos_token": "<|im_start|>", "eos_token": "<|im_end|>", "pad_token": "<|im_end|>"}
    return _fast(_bytes(("<|endoftext|>", "<|im_start|>", "<|im_end|>")), CHATML, **named)


def _gemma() -> Any:
    special = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
    backend = _pieces(special, "<bos>", metaspace=False)
    return _fast(backend, GEMMA, bos_token="<bos>", eos_token="<eos>", pad_token="<pad>", unk_token="<unk>")


def _mistral() -> Any:
    backend = _pieces(("<s>", "</s>", "[INST]", "[/INST]"), "<s>", metaspace=True)
    return _fast(backend, MISTRAL, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _neox() -> Any:
    backend = _bytes(("<|endoftext|>", "<|padding|>"), ("  ", "   "))
    return _fast(backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")


def _t5() -> Any:
    return _fast(_unigram(), eos_token="</s>", pad_token="<pad>", unk_token="<unk>")


SHAPES = (
    Shape("llama-3", _llama3, "<|eot_id|>", ("<|eot_id|>", "<|begin_of_text|>"), begins="<|begin_of_text|>"),
    Shape("qwen-2.5", functools.partial(_qwen, CHATML), "<|im_end|>", ("<|im_end|>", "<|endoftext|>")),
    Shape(
        "qwen-3",
        functools.partial(_qwen, QWEN3, ("<think>", "</think>", "<tool_call>")),
        "<|im_end|>",
        ("<|im_start|>", "</think>"),
    ),
    Shape("smollm2", _smollm2, "<|im_end|>", ("<|im_start|>", "<|im_end|>")),
    Shape("gemma", _gemma, "<end_of_turn>", ("<end_of_turn>", "<eos>", "<unk>"), begins="<bos>", system=False),
    Shape("mistral", _mistral, "</s>", ("[/INST]", "</s>", "<unk>"), begins="<s>", system=False),
    Shape("gpt-neox", _neox, "<|endoftext|>", ("<|endoftext|>", "<|padding|>")),
    Shape("t5", _t5, "</s>", ("</s>", "<extra_id_0>", "<pad>")),
)

shapes = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: shape.name)
"""Runs a test with every shape."""
TEXT = "red house near the old river"


def encoder(shape: Shape, **format_: Any) -> Encoder:
    """An encoder of a shape with a prompt format."""
    made = shape.made()
    prompts.apply_format(made, PromptFormat(**format_), shape.name)
    return Encoder(made, 512, encoder_decoder=shape.name == "t5")


def shown(of: Encoder, ids: list[int]) -> Any:
    """The text of token ids, control tokens included."""
    return of.tokenizer.decode(ids)
