"""Encoding, batches, objectives, training and generation, against plain references and on tiny models."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import tiny
import torch
from torch.nn import functional

from plad_bench.contract.errors import MissingError, StageError
from plad_bench.contract.examples import Response
from plad_bench.execute.stages import files
from plad_bench.learn import chunked_logits, generation, objectives, sequences, training
from plad_bench.learn.sequences import IGNORED, Encoder, Tokens, collate

RAGGED = [
    Tokens([0, 5, 6, 7], [8, 9, 1]),
    Tokens([0, 11], [12, 13, 14, 15, 16, 1]),
    Tokens([0, 21, 22, 23, 24, 25, 26], [27, 1]),
    Tokens([0, 31, 32], [33]),
]
TOKENS = sum(len(s.response) for s in RAGGED)


def method(name, **params):
    record = tiny.registry().get("method", name)
    return record, tiny.registry().configure(record, params)


def token_loss(name, student, teacher, chosen, total=None, pad=2, **params):
    """The first term of a token method on some sequences."""
    record, settings = method(name, **params)
    module = objectives.TokenLoss(student, teacher, settings)
    return module(record.objective.terms[0], collate(chosen, pad), total or sum(len(s.response) for s in chosen))[0]


def loss_of(*args, **more):
    return token_loss(*args, **more).item()


def gradients(model):
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def plain_logits(model, sequence):
    """The logits that predict each response token: one sequence, no padding, float64, plainly."""
    wide = copy.deepcopy(model).double()
    with torch.no_grad():
        logits = wide(input_ids=torch.tensor([sequence.prompt + sequence.response])).logits[0]
    return torch.stack([logits[len(sequence.prompt) - 1 + i] for i in range(len(sequence.response))])


def plain_logprobs(model, sequence):
    table = plain_logits(model, sequence).log_softmax(-1)
    return [float(table[i, token]) for i, token in enumerate(sequence.response)]


# ------------------------------------------------------------------------------------------ alignment and objectives


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_every_response_token_is_predicted_from_what_stands_before_it(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    with torch.no_grad():
        engine = chunked_logits.response_logits(model, collate(RAGGED, pad=2))
    plain = torch.cat([plain_logits(model, s) for s in RAGGED])
    torch.testing.assert_close(engine.double(), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_sequence_log_probabilities_are_over_response_tokens_only(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    with torch.no_grad():
        sums, lengths = objectives.sequence_logprobs(chunked_logits.Predictor(model), collate(RAGGED, pad=2))
    assert sums.tolist() == pytest.approx([sum(plain_logprobs(model, s)) for s in RAGGED], rel=1e-5)
    assert lengths.tolist() == [3, 6, 2, 1]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_token_loss_is_the_mean_over_the_response_tokens_of_the_batch(architecture):
    model = tiny.ARCHITECTURES[architecture]()
    expected = -sum(sum(plain_logprobs(model, s)) for s in RAGGED) / TOKENS
    assert loss_of("sft", model, None, RAGGED) == pytest.approx(expected, rel=1e-5)


def test_a_divergence_is_taken_between_the_two_predictions_of_the_same_token():
    student, teacher = tiny.llama(1), tiny.llama(2)
    expected = 0.0
    for sequence in RAGGED:
        p, q = (plain_logits(m, sequence).log_softmax(-1) for m in (teacher, student))
        expected += float((p.exp() * (p - q)).sum()) / TOKENS
    assert loss_of("kd", student, teacher, RAGGED, ce_weight=0) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["kd", "rkl", "jsd", "tvd"])
@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_model_learns_nothing_from_itself(architecture, name):
    student = tiny.ARCHITECTURES[architecture]()
    teacher = copy.deepcopy(student)
    loss = token_loss(name, student, teacher, RAGGED, ce_weight=0)
    loss.backward()
    assert loss.item() == 0
    assert gradients(student)
    assert all(float(g.abs().max()) == 0 for g in gradients(student).values())


@pytest.mark.parametrize(("students", "teachers"), [(40, 40), (40, 47), (47, 40)])
def test_padded_vocabularies_are_cut_to_what_both_have(students, teachers):
    student, teacher = tiny.llama(1, vocabulary=students), tiny.llama(2, vocabulary=teachers)
    expected = zero_filled = 0.0
    for sequence in RAGGED:
        z_p, z_q = plain_logits(teacher, sequence), plain_logits(student, sequence)
        p, q = z_p[:, :40].log_softmax(-1), z_q[:, :40].log_softmax(-1)
        expected += float((p.exp() * (p - q)).sum()) / TOKENS
        p, q = (functional.pad(z, (0, 47 - z.shape[-1])).log_softmax(-1) for z in (z_p, z_q))
        zero_filled += float((p.exp() * (p - q)).sum()) / TOKENS
    got = loss_of("kd", student, teacher, RAGGED, ce_weight=0)
    assert got == pytest.approx(expected, rel=1e-5)
    assert abs(zero_filled - expected) > 1e-2


def test_the_teacher_is_frozen_in_eval_mode_and_no_part_of_the_module():
    student, teacher = tiny.gpt2(1, dropout=0.1), tiny.gpt2(2, dropout=0.1)
    record, settings = method("kd")
    module = objectives.TokenLoss(student, teacher, settings)
    module.train()
    assert student.training
    assert not any(part.training for part in teacher.modules())
    mine = {id(p) for p in student.parameters()}
    assert {id(p) for p in module.parameters()} == mine
    assert set(module.state_dict()) == {f"student.{name}" for name in student.state_dict()}
    module(record.objective.terms[0], collate(RAGGED, 2), TOKENS)[0].backward()
    assert not gradients(teacher)
    assert gradients(student)


def test_the_train_stage_leaves_the_teacher_as_it_was(tmp_path, monkeypatch):
    world, seen = tiny.World(tmp_path), []

    class Spy(objectives.TokenLoss):
        def __init__(self, student, teacher, params, **more):
            super().__init__(student, teacher, params, **more)
            seen.append((teacher, {k: v.clone() for k, v in teacher.state_dict().items()}))

    monkeypatch.setattr(objectives, "TokenLoss", Spy)
    world.train("kd")
    ((teacher, before),) = seen
    assert not teacher.training
    assert not any(p.requires_grad for p in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())


# ------------------------------------------------------------------------------------------------ prompts and padding


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


# ------------------------------------------------------------------------------------------------------- generation


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


# ------------------------------------------------------------------------------------------------ order of training

LENGTHS = [3 + (7 * i) % 11 for i in range(96)]


def test_the_order_is_a_function_of_its_arguments_alone():
    import random

    first = sequences.order(LENGTHS, 4, 40, 0)
    random.seed(5)
    assert sequences.order(list(LENGTHS), 4, 40, 0) == first
    assert sequences.order(LENGTHS, 4, 40, 1) != first
    assert sequences.order(LENGTHS, 4, 24, 0) == first[:24], "more steps go on, they do not begin anew"


@pytest.mark.parametrize("count", [96, 64, 50, 37, 7, 3])
@pytest.mark.parametrize("batch", [4, 6])
def test_every_epoch_covers_every_prompt_once(count, batch):
    """Batches straddle epochs; so, after any number of epochs, whole windows differ by at most one per prompt."""
    window = min(16, max(1, count // batch))
    batches = sequences.order(LENGTHS[:count], batch, 12 * window, 0)
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
    spread = [max(LENGTHS[i] for i in b) - min(LENGTHS[i] for i in b) for b in sequences.order(LENGTHS, 4, 24, 0)]
    assert sum(spread) / len(spread) < 2


def test_a_choice_of_response_depends_on_seed_step_and_example():
    picks = {k: sequences.pick(1000, *k) for k in [(0, 0, "a"), (1, 0, "a"), (0, 1, "a"), (0, 0, "b")]}
    assert len(set(picks.values())) == 4
    assert sequences.pick(1000, 0, 0, "a") == picks[0, 0, "a"]
    assert {sequences.pick(3, 0, step, "a") for step in range(50)} == {0, 1, 2}


@pytest.fixture
def world(tmp_path):
    return tiny.World(tmp_path)


def test_all_methods_see_the_same_prompts_in_the_same_order(world, monkeypatch):
    seen: dict[str, list[list[tuple[int, ...]]]] = {}
    real = sequences.collate

    def spy(chosen, pad, device="cpu"):
        if name == "plad":
            assert [s.prompt for s in chosen[: len(chosen) // 2]] == [s.prompt for s in chosen[len(chosen) // 2 :]]
            prompts = chosen[: len(chosen) // 2]
        else:
            prompts = chosen
        seen.setdefault(name, []).append(sorted(tuple(s.prompt) for s in prompts))
        return real(chosen, pad, device)

    monkeypatch.setattr(sequences, "collate", spy)
    for name in ("sft", "seqkd", "kd", "plad"):
        world.train(name, steps=7, batch=4)
    assert len(seen["sft"]) == 7
    assert seen["sft"] == seen["seqkd"] == seen["kd"] == seen["plad"]
    assert seen["sft"][0] != seen["sft"][1]


# --------------------------------------------------------------------------------------------------------- training


def same_weights(one, other):
    """To the last bit: one machine, and the same batches."""
    torch.testing.assert_close(tiny.weights(one), tiny.weights(other), rtol=0, atol=0)


def reference(world):
    return world.run("reference", {"precision": "float32"}, name="reference")


@pytest.mark.parametrize("name", ["seqkd", "kd", "distillm2", "plad", "dpo"])
def test_a_batch_equals_its_micro_batches(world, name):
    if name == "dpo":
        world.inputs["reference"] = reference(world)
    whole = world.train(name)
    for size in (1, 2, 4):  # 4 does not divide 6: the last micro-batch is smaller
        parts = world.train(name, micro_batch=size)
        tiny.same_training(start_of(world), tiny.weights(whole), tiny.weights(parts))
        for one, other in zip(tiny.curve(whole), tiny.curve(parts), strict=True):
            assert one == pytest.approx(other, rel=1e-3, abs=1e-5)
    moved = max(float((v - tiny.weights(whole)[k]).abs().max()) for k, v in start_of(world).items())
    assert moved > 1e-4


def start_of(world):
    return tiny.weights(tiny.Artifact(world.inputs["model"].path, {}))


@pytest.mark.parametrize("name", ["sft", "kd"])
def test_the_gradient_of_a_batch_is_the_sum_of_its_micro_batches(name):
    teacher = None if name == "sft" else tiny.llama(2)
    whole, parts = tiny.llama(1), tiny.llama(1)
    loss = token_loss(name, whole, teacher, RAGGED)
    loss.backward()
    total = 0.0
    for group in ([RAGGED[2]], [RAGGED[0], RAGGED[3]], [RAGGED[1]]):
        part = token_loss(name, parts, teacher, group, total=TOKENS)
        part.backward()
        total += part.item()
    assert total == pytest.approx(loss.item(), rel=1e-5)
    for key, value in gradients(whole).items():
        torch.testing.assert_close(gradients(parts)[key], value, rtol=1e-3, atol=1e-6)


def test_training_is_accelerates(world, monkeypatch):
    calls = []

    class Spy(training.Accelerator):
        def prepare(self, *args, **more):
            calls.append("prepare")
            return super().prepare(*args, **more)

        def backward(self, loss, **more):
            calls.append("backward")
            super().backward(loss, **more)

        def clip_grad_norm_(self, *args, **more):
            calls.append("clip")
            return super().clip_grad_norm_(*args, **more)

    monkeypatch.setattr(training, "Accelerator", Spy)
    world.train("sft", micro_batch=3)
    assert calls == ["prepare", *["backward", "backward", "clip"] * 3]


def test_the_learning_rate_rises_linearly_and_falls_to_zero():
    rates = [training.learning_rate(i, 100, 1.0) for i in range(100)]
    assert rates[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert rates[5] == 1.0
    assert all(a >= b for a, b in itertools.pairwise(rates[5:]))
    assert 0 < rates[-1] < 1e-3


def test_a_loss_that_is_not_finite_stops_the_stage_and_names_the_step():
    class Scaled(torch.nn.Linear):
        def forward(self, scale):
            return super().forward(torch.ones(1, 1)).sum() * scale, {}

    class Data(training.Steps):
        def at(self, number):
            return training.Step(lambda size: [{"scale": math.inf if number == 4 else 1.0}], 1, 1)

    with pytest.raises(StageError, match="step 4"):
        training.train(
            Scaled(1, 1),
            Data(),
            steps=6,
            lr=1e-3,
            seed=0,
            precision="float32",
            device="cpu",
            checkpoint=tiny.Path("never-written"),
            progress=lambda *a, **k: None,
        )


# ----------------------------------------------------------------------------------------------------------- resume


class KilledError(Exception):
    """Stands for a kill."""


def interrupted(world, monkeypatch, method, at, **more):
    def progress(self, step, total, **values):
        if step == at:
            raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(tiny.Context, "progress", progress)
        with pytest.raises(KilledError):
            world.train(method, **more)


@pytest.mark.parametrize("name", ["seqkd", "plad"])
def test_an_interrupted_training_ends_as_an_undisturbed_one(world, monkeypatch, name):
    straight = world.train(name, steps=60, micro_batch=4)
    interrupted(world, monkeypatch, name, at=40, steps=60, name="again", micro_batch=4)
    assert (world.directory / "again" / "partial" / "checkpoint.pt").is_file()
    first = []
    real = sequences.collate
    monkeypatch.setattr(sequences, "collate", lambda *args: first.append(1) or real(*args))
    resumed = world.train(name, steps=60, name="again", micro_batch=4)
    assert len(first) == (60 - 25) * 2, "it went on from the checkpoint of step 25"
    same_weights(straight, resumed)
    assert tiny.curve(straight) == tiny.curve(resumed)
    assert straight.manifest["cost"]["tokens_trained"] == resumed.manifest["cost"]["tokens_trained"]


def test_dropout_resumes_too_and_depends_on_the_seed_alone(world, monkeypatch):
    world.model("model", tiny.gpt2(1, dropout=0.2))
    straight = world.train("seqkd", steps=60)
    torch.rand(3)  # whatever else drew random numbers in this process
    interrupted(world, monkeypatch, "seqkd", at=40, steps=60, name="again")
    torch.rand(5)
    same_weights(straight, world.train("seqkd", steps=60, name="again"))


def flipped(part):
    return lambda b: b[: (n := int(len(b) * part))] + bytes([b[n] ^ 4]) + b[n + 1 :]


@pytest.mark.parametrize(
    "tear",
    [
        *(lambda b: b"", lambda b: b[: len(b) // 2], lambda b: bytes(len(b)), lambda b: b[:3]),
        *(flipped(part) for part in (0.3, 0.5, 0.7)),  # in the weights, which torch would load
    ],
)
def test_a_torn_checkpoint_means_beginning_again(world, monkeypatch, tear):
    straight = world.train("seqkd", steps=30)
    interrupted(world, monkeypatch, "seqkd", at=29, steps=30, name="again")
    checkpoint = world.directory / "again" / "partial" / "checkpoint.pt"
    checkpoint.write_bytes(torn := tear(checkpoint.read_bytes()))
    same_weights(straight, world.train("seqkd", steps=30, name="again"))
    assert checkpoint.with_suffix(".bad").read_bytes() == torn


def test_a_checkpoint_that_cannot_be_read_for_now_is_not_lost(world, monkeypatch):
    interrupted(world, monkeypatch, "seqkd", at=29, steps=30, name="again")
    checkpoint = world.directory / "again" / "partial" / "checkpoint.pt"
    before = checkpoint.read_bytes()

    def full(*args, **more):
        raise OSError(24, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("zipfile.ZipFile", full)
        with pytest.raises(MissingError, match="cannot be read: Too many open files"):
            world.train("seqkd", steps=30, name="again")
    assert checkpoint.read_bytes() == before


def test_a_batch_out_of_all_proportion_to_the_data_is_refused_at_once(world):
    with pytest.raises(StageError, match=r"a global batch of 100000 would train on each of the \d+ training prompts"):
        world.train("seqkd", batch=100000)


# ------------------------------------------------------------------------------------- responses, pairs and references


@pytest.mark.parametrize("role", ["teach", "sample"])
def test_responses_are_joined_by_id(world, role):
    method = {"teach": "seqkd", "sample": "distillm2"}[role]
    before = world.train(method)
    file = world.inputs[role].path / files.RESPONSES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[5:] + lines[:5][::-1]))
    same_weights(before, world.train(method))
    pairs = world.run("pairs", {}, job={"builder": tiny.named("pair builder", "teacher-over-student")})
    assert (pairs.path / files.PAIRS).read_text() == (world.inputs["pairs"].path / files.PAIRS).read_text()


def test_a_shuffled_teacher_is_seqkd_on_the_responses_to_other_prompts(world):
    import json

    shuffled = world.train("shuffled-teacher")
    file = world.inputs["teach"].path / files.RESPONSES
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    ids = [row["id"] for row in rows]
    moved = dict(zip(ids, [row["responses"] for row in [*rows[1:], rows[0]]], strict=True))
    assert all(moved[row["id"]] != row["responses"] for row in rows)
    files.write_lines(file, [{"id": id_, "responses": moved[id_]} for id_ in ids])
    same_weights(shuffled, world.train("seqkd"))


@pytest.mark.parametrize("operation", ["train", "pairs"])
def test_a_missing_response_is_named(world, operation):
    file = world.inputs["teach"].path / files.RESPONSES
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if "example-07" not in line))
    builder, seqkd = tiny.named("pair builder", "teacher-over-student"), tiny.named("method", "seqkd")
    spec = {"steps": 1, "lr": 1e-3, "batch": 2, "seed": 0, "precision": "float32"}
    with pytest.raises(StageError, match="example-07"):
        world.run(operation, spec, job={"builder": builder, "method": seqkd})


def test_the_reference_stage_gives_what_a_live_reference_would(world):
    import json

    facts = json.loads((reference(world).path / files.LOGPROBS).read_text())
    model, encoder = tiny.llama(1), Encoder(tiny.tokenizer(), 128)
    prompts = {p.id: p.prompt for p in files.read_prompts(world.inputs["data"], "train")}
    rows = list(files.read_lines(world.inputs["pairs"].path / files.PAIRS))
    assert len(rows) == len(facts) == 12
    for row, fact in zip(rows, facts, strict=True):
        for side in ("chosen", "rejected"):
            response = encoder.response(files.response_of(row[side]))
            sequence = encoder.sequence(encoder.prompt(prompts[row["id"]]), response)
            assert fact[f"reference_{side}"] == pytest.approx(sum(plain_logprobs(model, sequence)), rel=1e-5)


@pytest.mark.parametrize("micro_batch", [0, 2])
def test_dpo_begins_at_log_2(world, micro_batch):
    world.inputs["reference"] = reference(world)
    first, *_, last = tiny.curve(world.train("dpo", steps=12, lr=1e-2, micro_batch=micro_batch))
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert last["loss"] < first["loss"]


def test_a_pair_step_reports_log_probabilities_accuracy_and_margin(world):
    first = tiny.curve(world.train("plad", steps=1, batch=12))[0]
    model, encoder = tiny.llama(1), Encoder(tiny.tokenizer(), 128)
    prompts = {p.id: p.prompt for p in files.read_prompts(world.inputs["data"], "train")}
    sums = {"chosen": [], "rejected": []}
    for row in files.read_lines(world.inputs["pairs"].path / files.PAIRS):
        for side, values in sums.items():
            response = encoder.response(files.response_of(row[side]))
            values.append(sum(plain_logprobs(model, encoder.sequence(encoder.prompt(prompts[row["id"]]), response))))
    chosen, rejected = (torch.tensor(v) for v in sums.values())
    assert first["logprob_chosen"] == pytest.approx(float(chosen.mean()), rel=1e-4)
    assert first["logprob_rejected"] == pytest.approx(float(rejected.mean()), rel=1e-4)
    assert first["margin"] == pytest.approx(float((chosen - rejected).mean()), rel=1e-3)
    assert first["accuracy"] == pytest.approx(float((chosen > rejected).double().mean()))


def test_a_prompt_without_pair_keeps_its_place_and_trains_nothing(world):
    file = world.inputs["pairs"].path / files.PAIRS
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:3]))
    trained = world.train("plad", steps=4, batch=3)
    per_epoch = sum(
        len(Encoder(tiny.tokenizer(), 128).response(files.response_of(row[side])))
        for row in files.read_lines(file)
        for side in ("chosen", "rejected")
    )
    assert trained.manifest["cost"]["tokens_trained"] == per_epoch
    assert all(math.isfinite(v) for row in tiny.curve(trained) for v in row.values())


def test_different_tokenizers_cannot_be_compared_token_by_token(world):
    other = tiny.tokenizer()
    other.add_tokens(["great house"])
    world.model("teacher", tiny.llama(2, vocabulary=301), other)
    with pytest.raises(StageError, match="different tokenizers"):
        world.train("kd")


SPELLED = [  # as the student spells them, and as the teacher does, with more tokens or with fewer
    Tokens([0, 5, 6], [8, 9, 1], Tokens([0, 7], [3, 4, 5, 6, 1])),
    Tokens([0, 11], [12, 13, 14, 15, 1], Tokens([0, 8, 9, 10], [3, 1])),
]


@pytest.mark.parametrize("rows", [0, 3])
@pytest.mark.parametrize("vocabularies", [(40, 25), (25, 40)])
def test_uld_sets_each_token_against_the_teachers_of_the_same_place(vocabularies, rows):
    student, teacher = tiny.llama(1, vocabularies[0]).double(), tiny.llama(2, vocabularies[1]).double()
    expected = 0.0
    for sequence in SPELLED:
        q, p = plain_logits(student, sequence).softmax(-1), plain_logits(teacher, sequence.teacher).softmax(-1)
        expected -= sum(math.log(q[i, token]) for i, token in enumerate(sequence.response))
        for i in range(min(len(q), len(p))):
            a, b = (sorted(x[i].tolist() + [0.0] * (40 - x.shape[1])) for x in (q, p))
            expected += 1.5 * sum(abs(u - v) for u, v in zip(a, b, strict=True))
    record, settings = method("uld")
    module = objectives.TokenLoss(student, teacher, settings, rows=rows)
    loss, _ = module(record.objective.terms[0], collate(SPELLED, 2), 8)
    assert loss.item() == pytest.approx(expected / 8, rel=1e-9)
    loss.backward()
    assert all(torch.isfinite(g).all() for g in gradients(student).values())


def test_uld_runs_where_the_tokenizers_differ(world):
    other = tiny.tokenizer()
    other.add_tokens(["great house", "the"])
    world.model("teacher", tiny.llama(2, vocabulary=302), other)
    trained = world.train("uld", params={"data": "teacher"})
    assert "retokenised_responses" in trained.manifest["counts"]  # by the teacher's tokenizer, which did not make them
    weightless = world.train("uld", params={"data": "teacher", "weight": 0})
    assert tiny.curve(trained)[0]["loss"] > tiny.curve(weightless)[0]["loss"]
    assert tiny.curve(weightless)[0]["loss"] == pytest.approx(tiny.curve(world.train("seqkd"))[0]["loss"], rel=1e-5)


def test_a_loss_that_has_averaged_already_is_refused():
    from plad_bench.learn.objectives import expect_shape

    expect_shape(torch.zeros(3), torch.Size([3]), "token")
    with pytest.raises(StageError, match=r"gave shape \[\], not \[3\]\n  Return one value per token"):
        expect_shape(torch.zeros(3).mean(), torch.Size([3]), "token")
