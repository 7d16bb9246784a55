"""The tokenizer stage: a byte-level BPE tokenizer trained on the task's training text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from plad_bench.execute.stages.files import read_prompts
from plad_bench.execute.worker import Context

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def run(context: Context) -> None:
    """Write the tokenizer in Hugging Face format."""
    prompts = read_prompts(context.inputs["data"], "train")
    texts = [text for p in prompts for text in (p.prompt + "\n", *p.references)]
    tokenizer = trained(texts, int(context.spec["vocabulary"]))
    context.counts["vocabulary"] = len(tokenizer)
    tokenizer.save_pretrained(context.out / "tokenizer")


def trained(texts: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """A tokenizer of at most so many tokens; every byte and three control tokens are among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[BOS, EOS, PAD],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD)
