"""A tokenizer for random tokens: one word for each, so that any sequence of ids is a text and comes back as it was."""

from __future__ import annotations

from typing import Any


def tokenizer(vocabulary: int) -> Any:
    """Token i is the word wi; 0, 1 and 2 are <s>, </s> and <pad>."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {"<s>": 0, "</s>": 1, "<pad>": 2} | {f"w{i}": i for i in range(3, vocabulary)}
    made = Tokenizer(models.WordLevel(words, unk_token="<pad>"))  # noqa: S106
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=made, bos_token="<s>", eos_token="</s>", pad_token="<pad>")  # noqa: S106
