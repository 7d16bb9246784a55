"""Models of two halves (T5, BART): trained, sampled and evaluated like the others, where that makes sense."""

from __future__ import annotations

import pytest
import tiny
import torch

from plad_bench.contract.examples import Response
from plad_bench.contract.objectives import Sampling
from plad_bench.learn import models
from plad_bench.learn.chunked_logits import Predictor, response_logits
from plad_bench.learn.generation import Decoding, generate
from plad_bench.learn.objectives import sequence_logprobs
from plad_bench.learn.rollouts import Rollouts, draw
from plad_bench.learn.sequences import Tokens, collate

RAGGED = [
    Tokens([5, 6, 7, 1], [8, 9, 1]),
    Tokens([11, 1], [12, 13, 14, 15, 16, 1]),
    Tokens([21, 22, 23, 24, 25, 26, 1], [27, 1]),
    Tokens([31, 32, 1], [33]),
]


def t5(seed=0, vocabulary=300):
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(
        vocab_size=vocabulary,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        dropout_rate=0.0,
        decoder_start_token_id=2,
        pad_token_id=2,
        eos_token_id=1,
        initializer_factor=3.0,
    )
    return tiny._seeded(seed, T5ForConditionalGeneration, config)


def bart(seed=0, vocabulary=300):
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=vocabulary,
        d_model=16,
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
        max_position_embeddings=64,
        init_std=0.3,
        dropout=0.0,
        decoder_start_token_id=1,
        bos_token_id=0,
        pad_token_id=2,
        eos_token_id=1,
        forced_eos_token_id=None,
    )
    return tiny._seeded(seed, BartForConditionalGeneration, config)


KINDS = {"t5": t5, "bart": bart}


@pytest.fixture(params=KINDS)
def make(request):
    return KINDS[request.param]


def plain(model, sequence):
    """One text at a time, without padding, as the model's own interface for labels has it."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([sequence.prompt]), labels=torch.tensor([sequence.response])).logits[0]


def test_each_label_is_predicted_from_the_prompt_and_the_labels_before_it(make):
    model = make()
    with torch.no_grad():
        found = response_logits(model, collate(RAGGED, pad=2))
    torch.testing.assert_close(found, torch.cat([plain(model, s) for s in RAGGED]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("pad", [1, 2, 17])
def test_the_padding_token_is_never_seen(make, pad):
    model = make()
    with torch.no_grad():
        found, expected = (response_logits(model, collate(RAGGED, p)) for p in (pad, 2))
    torch.testing.assert_close(found, expected)


def test_log_probabilities_are_of_the_response(make):
    model = make()
    with torch.no_grad():
        sums, lengths = sequence_logprobs(Predictor(model, 1), collate(RAGGED, 2))
    for total, sequence in zip(sums.tolist(), RAGGED, strict=True):
        table = plain(model, sequence).log_softmax(-1)
        assert total == pytest.approx(sum(float(table[i, t]) for i, t in enumerate(sequence.response)), rel=1e-4)
    assert lengths.tolist() == [3, 6, 2, 1]


def test_a_prompt_is_a_text_of_its_own():
    encoder = models.encoder(t5(), tiny.tokenizer())
    assert encoder.prompt("red house")[-1] == 1
    assert encoder.prompt("red house").count(1) == 1
    assert models.encoder(tiny.llama(), tiny.tokenizer()).prompt("red house")[-1] != 1


def test_greedy_text_is_the_argmax_of_what_training_sees(make):
    model, tokenizer = make(), tiny.tokenizer()
    prompts = ["red house", "the old garden near the river", "a"]
    responses = generate(model, tokenizer, prompts, Decoding(max_new_tokens=6))
    encoder = models.encoder(model, tokenizer)
    for prompt, response in zip(prompts, responses, strict=True):
        sequence = encoder.sequence(encoder.prompt(prompt), [*response.ids, *([1] if response.finished else [])])
        assert plain(model, sequence).argmax(-1).tolist() == sequence.response


def test_a_saved_model_comes_back_as_what_it_is(make, tmp_path):
    model = make()
    models.save(model, tiny.tokenizer(), tmp_path)
    loaded, _ = models.load(tmp_path, "cpu", "float32")
    assert type(loaded) is type(model)


@pytest.fixture
def world(tmp_path, make):
    made = tiny.World(tmp_path)
    made.model("model", make(1))
    made.model("teacher", make(2))
    return made


@pytest.mark.parametrize("method", ["sft", "seqkd", "kd", "distillm2", "plad", "dpo", "orpo"])
def test_methods_on_fixed_text_train_them(world, method):
    if method == "dpo":
        world.inputs["reference"] = world.run("reference", {"precision": "float32"})
    losses = [row["loss"] for row in tiny.curve(world.train(method, steps=8, lr=1e-2))]
    assert losses[-1] < losses[0] or method == "dpo"  # which begins at its best guess, log 2
    # Few small steps, for long ones amplify rounding; not weights, for biases of keys have no gradient but rounding.
    whole, parts = (tiny.curve(world.train(method, micro_batch=size)) for size in (6, 2))
    assert [row["loss"] for row in parts] == pytest.approx([row["loss"] for row in whole], rel=1e-3)


def test_so_do_adapters(world):
    from plad_bench.learn import adapters

    trained = world.train("plad", lora=4)
    model, _ = models.load(trained.path / "model", "cpu", "float32")
    assert model.config.is_encoder_decoder
    adapters.adapt(model, 2, 0)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {
        n for n, _ in model.named_parameters() if ".lora_" in n
    }


def test_signals_are_the_live_teachers(world):
    live = tiny.curve(world.train("kd"))
    world.inputs["signals-reference"] = world.run("signals", {"text": "reference", "k": 0, "precision": "float32"})
    del world.inputs["teacher"]
    cached = tiny.curve(world.train("kd"))
    for mine, theirs in zip(live, cached, strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3)


def test_a_decoder_can_learn_from_one_through_uld(world):
    """Their prompts differ, their responses do not."""
    world.model("model", tiny.llama(1))
    assert all("loss" in row for row in tiny.curve(world.train("uld")))


def plainly(student, teacher, prompt, noise, sampling):
    """A text, one token at a time, with no cache and no padding."""
    text = []
    while len(text) < len(noise) and text[-1:] != [1]:
        so_far = Tokens(prompt, [*text, 0])
        q, p = ((plain(m, so_far)[-1, :300] / sampling.temperature).softmax(-1) for m in (student, teacher))
        q = (1 - sampling.teacher_mix) * q + sampling.teacher_mix * p
        proposal, own = (draw(d, u) for d, u in zip((q, p), noise[len(text)], strict=True))
        if sampling.verify_top_k and proposal not in p.topk(sampling.verify_top_k).indices:
            proposal = own
        text.append(int(proposal))
    return text


@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.5, draft=4),
        Sampling(teacher_mix=0.4),
        Sampling(verify_top_k=9),
        Sampling(verify_top_k=9, draft=3),
    ],
    ids=str,
)
def test_sampled_while_training_they_say_what_a_plain_loop_says(make, sampling):
    student, teacher = make(1), make(2)
    roll = Rollouts(student.train(), teacher, tiny.tokenizer(), max_new_tokens=6, seed=0)
    prompts, names = [s.prompt for s in RAGGED], list("abcd")
    made = [roll.sample(prompts, names, step, sampling) for step in range(3)]
    assert student.training
    student.eval()
    noise = [[roll._noise(step, name) for name in names] for step in range(3)]
    assert made == [
        [plainly(student, teacher, p, n, sampling) for p, n in zip(prompts, row, strict=True)] for row in noise
    ]
    assert len({tuple(text) for texts in made for text in texts}) > 4
    reversed_ = roll.sample(prompts[::-1], names[::-1], 0, sampling)
    assert reversed_ == made[0][::-1]  # whatever is in the batch


@pytest.mark.parametrize("method", ["gkd", "imitkd", "skd", "opd", "minillm"])
def test_methods_on_their_own_text_train_them(world, method):
    given = {"on_policy": 1} if method == "gkd" else {}
    losses, again = (
        [row["loss"] for row in tiny.curve(world.train(method, params=given, max_new_tokens=4, micro_batch=size))]
        for size in (6, 2)
    )
    assert losses == pytest.approx(again, rel=5e-3)
    assert all(loss == loss for loss in losses)


def test_no_method_is_skipped_for_it(tmp_path, make):
    from plad_bench.plan import matrix, spec

    models.save(make(), tiny.tokenizer(), tmp_path / "mine")
    selector = f"hf[path='{tmp_path / 'mine'}']"
    run = spec.build(tiny.registry(), task="demo", methods="gkd,plad,kd", student=selector, teacher=selector)
    assert {c.skip for c in matrix.cells(run, tiny.registry())} == {""}


def test_metrics_measure_them(tmp_path, make):
    from plad_bench.learn.evaluation import Evaluated

    models.save(make(), tiny.tokenizer(), tmp_path)
    evaluated = Evaluated(tmp_path, "cpu", "float32", 8, {})
    ((first, *_), *_) = evaluated.logprobs([("red house", Response(text="a small tower"))])
    assert first < 0
