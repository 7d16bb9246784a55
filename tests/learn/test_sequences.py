"""Encoded prompts and responses, their padding, and the order in which training meets them."""

from __future__ import annotations

import pytest
import tiny
import torch
from plain_training import RAGGED, TOKENS, gradients, loss_of, token_loss

from plad_bench.contract.examples import Response
from plad_bench.learn import sequences
from plad_bench.learn.sequences import IGNORED, Encoder, collate


def test_what_stands_beside_a_sequence_never_reaches_its_loss():
    model, teacher = tiny.llama(1), tiny.llama(2)
    for sequence in RAGGED:
        alone = loss_of("kd", model, teacher, [sequence])
        others = [s for s in RAGGED if s is not sequence]
        count = len(sequence.response)
        beside = TOKENS * loss_of("kd", model, teacher, [*others, sequence])
        rest = (TOKENS - count) * loss_of("kd", model, teacher, others)
        assert (beside - rest) / count == pytest.approx(alone, rel=2e-5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_the_padding_token_is_never_seen(architecture):
    losses, grads = [], []
    for pad in (2, 1, 17):
        model = tiny.ARCHITECTURES[architecture](1)
        # a padded position still sees the sequence, so its embedding would get a gradient if a loss looked there
        loss = token_loss("kd", model, tiny.ARCHITECTURES[architecture](2), RAGGED, pad=pad)
        loss.backward()
        losses.append(loss.item())
        grads.append(gradients(model))
    assert losses[0] == losses[1] == losses[2]
    for other in grads[1:]:
        for name, value in grads[0].items():
            torch.testing.assert_close(other[name], value, rtol=1e-3, atol=1e-6)


def test_labels_are_response_tokens_at_the_position_before_them():
    batch = collate(RAGGED, pad=2)
    for row, sequence in enumerate(RAGGED):
        tokens, labels = sequence.prompt + sequence.response, batch.labels[row].tolist()
        trained = {t + 1: label for t, label in enumerate(labels) if label != IGNORED}
        assert trained == {i: tokens[i] for i in range(len(sequence.prompt), len(tokens))}
    assert batch.start == 1
    assert int(batch.valid.sum()) == TOKENS


def test_where_pad_is_the_end_token_that_is_trained_exactly_once():
    encoder = Encoder(tiny.tokenizer(pad="</s>"), 128)
    texts = ["red", "red blue green old new house", "a"]
    responses = [Response(text=t) for t in texts] + [Response(text="blue", finished=False)]
    chosen = [encoder.sequence(encoder.prompt("walk"), encoder.response(r)) for r in responses]
    assert encoder.tokenizer.pad_token_id == encoder.tokenizer.eos_token_id == 1
    batch = collate(chosen, encoder.tokenizer.pad_token_id)
    assert (batch.labels == 1).sum(1).tolist() == [1, 1, 1, 0]
    assert batch.attention_mask.sum(1).tolist() == [len(s) for s in chosen]


TEMPLATE = "<s>{% for m in messages %}{{ m.content }}{% endfor %}{% if add_generation_prompt %} :{% endif %}"


@pytest.mark.parametrize("template", [None, TEMPLATE])
def test_a_sequence_begins_once_and_ends_once(template):
    encoder = Encoder(tiny.tokenizer(template=template), 128)
    prompt = encoder.prompt("red house")
    whole = encoder.sequence(prompt, encoder.response(Response(text="a small tower")))
    tokens = whole.prompt + whole.response
    assert tokens[0] == 0
    assert tokens.count(0) == 1
    assert tokens[-1] == 1
    assert tokens.count(1) == 1
    text = encoder.tokenizer.decode(tokens, skip_special_tokens=True)
    assert text == ("red house :" if template else "red house\n") + "a small tower"


def test_a_tokenizer_that_ends_every_text_does_not_end_the_prompt():
    from tokenizers import processors

    made = tiny.tokenizer()
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    assert Encoder(made, 128).prompt("red house") == made("red house\n", add_special_tokens=False)["input_ids"]


def test_what_does_not_fit_is_cut_and_counted():
    encoder = Encoder(tiny.tokenizer(), 10)
    assert len(encoder.sequence(list(range(4)), list(range(6)))) == 10
    assert encoder.counts == {}
    cut = encoder.sequence(list(range(4)), list(range(20, 29)))
    assert (cut.prompt, cut.response) == (list(range(4)), list(range(20, 26)))
    long = encoder.sequence(list(range(15)), [20, 21])
    assert (long.prompt, long.response) == (list(range(6, 15)), [20])
    assert encoder.counts == {"truncated_sequences": 2}


def test_ids_of_the_same_tokenizer_are_taken_as_they_are():
    encoder = Encoder(tiny.tokenizer(), 128)
    usual = encoder.tokenizer("red house", add_special_tokens=False)["input_ids"]
    spelled = [i for c in "red house" for i in encoder.tokenizer(c, add_special_tokens=False)["input_ids"]]
    assert spelled != usual
    response = Response(text="red house", ids=tuple(spelled), tokenizer=Encoder(tiny.tokenizer(), 64).hash)
    assert encoder.response(response) == [*spelled, 1]
    assert encoder.counts == {}


def test_ids_of_another_tokenizer_are_made_anew_and_counted():
    encoder = Encoder(tiny.tokenizer(), 128)
    usual = encoder.tokenizer("red house", add_special_tokens=False)["input_ids"]
    assert encoder.response(Response(text="red house", ids=(7, 8, 9), tokenizer="another")) == [*usual, 1]
    assert encoder.counts == {"retokenised_responses": 1}
    assert encoder.response(Response(text="red house", finished=False)) == usual
    assert encoder.counts == {"retokenised_responses": 1}


def test_tokenizers_that_differ_have_different_hashes():
    from transformers import PreTrainedTokenizerFast

    merged = tiny.tokenizer().backend_tokenizer
    merged.add_tokens(["great house"])
    other = PreTrainedTokenizerFast(tokenizer_object=merged, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    assert Encoder(other, 128).hash != Encoder(tiny.tokenizer(), 128).hash


LENGTHS = [3 + (7 * i) % 11 for i in range(96)]


def ordered(lengths, batch, steps, seed):
    order = sequences.Order(lengths, batch, seed)
    return [order[step] for step in range(steps)]


def test_the_order_is_a_function_of_its_arguments_alone():
    import random

    first = ordered(LENGTHS, 4, 40, 0)
    random.seed(5)
    assert ordered(list(LENGTHS), 4, 40, 0) == first
    assert ordered(LENGTHS, 4, 40, 1) != first
    assert sequences.Order(LENGTHS, 4, 0)[39] == first[39], "whichever step is asked for first"


@pytest.mark.parametrize("count", [96, 64, 50, 37, 7, 3])
@pytest.mark.parametrize("batch", [4, 6])
def test_every_epoch_covers_every_prompt_once(count, batch):
    """Batches straddle epochs; so, after any number of epochs, whole windows differ by at most one per prompt."""
    window = min(16, max(1, count // batch))
    batches = ordered(LENGTHS[:count], batch, 12 * window, 0)
    assert len(batches) == 12 * window
    assert all(len(b) == batch for b in batches)
    seen = dict.fromkeys(range(count), 0)
    for number, taken in enumerate(batches):
        for i in taken:
            seen[i] += 1
        if (number + 1) % window == 0:
            assert max(seen.values()) - min(seen.values()) <= 1
    if count % (window * batch) == 0:
        per_epoch = count // batch
        for start in range(0, len(batches), per_epoch):
            assert sorted(i for b in batches[start : start + per_epoch] for i in b) == list(range(count))


def test_prompts_of_a_batch_are_of_like_length():
    spread = [max(LENGTHS[i] for i in b) - min(LENGTHS[i] for i in b) for b in ordered(LENGTHS, 4, 24, 0)]
    assert sum(spread) / len(spread) < 2


def test_a_choice_of_response_depends_on_seed_step_and_example():
    picks = {k: sequences.pick(1000, *k) for k in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    assert len(set(picks.values())) == 4
    assert sequences.pick(1000, 0, 0, "a") == picks[0, 0, "a"]
    assert {sequences.pick(3, 0, step, "a") for step in range(50)} == {0, 1, 2}
