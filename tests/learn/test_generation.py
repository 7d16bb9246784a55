"""Generated responses: what a batch gives, each prompt gives alone."""

from __future__ import annotations

import pytest
import tiny
import torch
from plain_training import plain_logits

from plad_bench.contract.errors import StageError
from plad_bench.learn import generation
from plad_bench.learn.sequences import Encoder


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
@pytest.mark.parametrize("pad", ["<pad>", "</s>"])
def test_a_batch_of_prompts_gives_what_each_gives_alone(architecture, pad):
    model, tokenizer = tiny.ARCHITECTURES[architecture](3), tiny.tokenizer(pad=pad)
    model.generation_config.eos_token_id = list(range(200, 240))  # so that some responses end, each at its own time
    prompts = [tiny.sentence(i, 1 + 3 * i) for i in range(8)]
    decoding = generation.Decoding(max_new_tokens=12)
    together = generation.generate(model, tokenizer, prompts, decoding)
    assert together == [generation.generate(model, tokenizer, [p], decoding)[0] for p in prompts]
    assert len({r.finished for r in together}) == 2
    for response in together:
        assert not {*response.ids} & {1, *range(200, 240)}
        assert response.finished or len(response.ids) == 12
        assert response.text == tokenizer.decode(response.ids, skip_special_tokens=True)


def test_greedy_generation_is_the_argmax_of_what_training_sees():
    model, tokenizer = tiny.llama(3), tiny.tokenizer()
    encoder = Encoder(tokenizer, 128)
    (response,) = generation.generate(model, tokenizer, ["red house"], generation.Decoding(max_new_tokens=8))
    whole = encoder.sequence(encoder.prompt("red house"), encoder.response(response))
    assert plain_logits(model, whole).argmax(-1).tolist()[: len(response.ids)] == list(response.ids)


def test_samples_depend_on_the_seed_alone():
    model, tokenizer = tiny.llama(3), tiny.tokenizer()
    prompts = [tiny.sentence(i, 3) for i in range(4)]

    def drawn(seed):
        torch.rand(7)
        decoding = generation.Decoding(max_new_tokens=8, temperature=1.0, top_k=40, seed=seed)
        return [r.ids for r in generation.generate(model, tokenizer, prompts, decoding)]

    assert drawn(0) == drawn(0)
    assert drawn(0) != drawn(1)


def test_a_prompt_that_leaves_no_room_is_named():
    with pytest.raises(StageError, match=r"1 prompts are longer.*begins 'red red"):
        generation.generate(
            tiny.llama(), tiny.tokenizer(), ["blue", "red " * 120], generation.Decoding(max_new_tokens=20)
        )
