"""Teacher distributions that were computed once give the losses that a live teacher gives."""

from __future__ import annotations

import functools
import json
import logging

import numpy as np
import pytest
import tiny
import torch
from heads import Odd, headed, heads
from safetensors.torch import load_file
from transformers import T5Config, T5ForConditionalGeneration

from plad_bench import Response, Text, TokenObjective, UsageError
from plad_bench.contract.errors import StageError
from plad_bench.learn import chunked_logits, models, teacher_cache
from plad_bench.learn.chunked_logits import Predictor, response_logits
from plad_bench.learn.evaluation import Evaluated
from plad_bench.learn.objectives import TokenLoss, token_losses
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.learn.teacher_cache import Events, LoadedTeacher, TeacherCache, head_of, of_events
from plad_bench.plan.stages import kept_tokens

V = 300
OVERHEAD = 2000
"""Maximum number of bytes beside the teacher's own in the files of RAGGED."""
METHODS = {name: found[0].component for name, found in tiny.registry().components("method").items()}
TEACHER = [
    name
    for name, m in METHODS.items()
    if isinstance(m.objective, TokenObjective) and m.objective.teacher_logits and m.objective.terms[0].loss
]
RAGGED = [
    Tokens([0, 5, 6, 7], [8, 9, 1]),
    Tokens([0, 11], [12, 13, 14, 15, 16, 1]),
    Tokens([0, 21, 22, 23, 24, 25, 26], [27, 1]),
    Tokens([0, 31, 32], [33]),
]


def written(directory, k, sequences=RAGGED, teacher=None, rows=0, tokenizer="mine", words=0):
    directory.mkdir(exist_ok=True)
    predictor = Predictor((teacher or tiny.llama(2)).eval(), rows)
    head = None if k else head_of(predictor, sequences, 2, "cpu")
    reader = LoadedTeacher(predictor, 2, "cpu", words=words, head=head)
    cost = teacher_cache.write(directory, reader, sequences, k, tokenizer, lambda *_: None)
    return TeacherCache(directory, "mine"), cost


def loss(name, known, *, teacher=None, rows=0, bf16=False, **params):
    """All terms of a method and the student's gradient, its teacher live or known."""
    settings = tiny.registry().configure(METHODS[name], params)
    student = tiny.llama(1)
    module = TokenLoss(student, teacher or tiny.llama(2), settings, rows=rows)
    total = 0.0
    for term in METHODS[name].objective.active(settings):
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            value, _ = module(term, collate(RAGGED, 2), 12, known)
        value.backward()
        total += value.item()
    return total, torch.cat([p.grad.flatten() for p in student.parameters()])


def events(student, teacher, labels, k):
    """What a loss sees of two [N, V] logits through the k likeliest tokens."""
    log_p = teacher.log_softmax(-1)
    ids = log_p.topk(k).indices
    return Events(of_events(log_p, ids, labels), ids).meet(slice(0, len(labels)), student, labels)


def logits(dtype=torch.float64, vocabulary=12, rows=6, spread=3.0):
    generator = torch.Generator().manual_seed(3)
    student, teacher = spread * torch.randn(2, rows, vocabulary, generator=generator, dtype=dtype)
    labels = torch.randint(0, vocabulary, (rows,), generator=generator)
    return student.requires_grad_(), teacher, labels


def evaluate(name, student, teacher, labels, **params):
    settings = tiny.registry().configure(METHODS[name], params)
    terms = METHODS[name].objective.active(settings)
    return sum(token_losses(term, settings, student, teacher, labels) for term in terms)


# ------------------------------------------------------------------------------------------------------------ the loss


@pytest.mark.parametrize("name", TEACHER)
def test_dense_signals_give_the_live_loss_and_gradient(name, tmp_path):
    found, _ = written(tmp_path, 0)
    live, cached = loss(name, None), loss(name, found.target(RAGGED))
    assert cached[0] == pytest.approx(live[0], rel=1e-4, abs=1e-6)
    torch.testing.assert_close(cached[1], live[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", TEACHER)
def test_dense_bf16_gives_the_loss_of_a_live_bf16_teacher_in_chunks_too(name, tmp_path):
    teacher = tiny.llama(2).bfloat16().eval()
    found, _ = written(tmp_path, 0, teacher=teacher)
    assert found.values.dtype == np.int16
    for rows in (0, 5):
        live = loss(name, None, teacher=teacher, rows=rows, bf16=True)
        cached = loss(name, found.target(RAGGED), rows=rows, bf16=True)
        assert cached[0] == pytest.approx(live[0], rel=1e-5, abs=1e-6)
        torch.testing.assert_close(cached[1], live[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("kind", heads())
def test_dense_keeps_the_head_of_every_published_kind(kind, tmp_path):
    teacher = headed(kind)
    found, _ = written(tmp_path, 0, teacher=teacher)
    assert found.values.shape == (12, 16)
    with torch.no_grad():
        logits = response_logits(teacher, collate(RAGGED, 2))
    torch.testing.assert_close(found.target(RAGGED).predictions.logits(slice(0, 12)), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["altered", "encoder-decoder"])
def test_dense_of_a_head_that_is_not_known_keeps_log_probabilities_and_says_so(kind, tmp_path, caplog):
    if kind == "altered":
        teacher = tiny.llama(2)
        Odd(teacher, lambda logits: logits * 1.01)
    else:
        teacher = T5ForConditionalGeneration(
            T5Config(
                vocab_size=V, d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2,
                decoder_start_token_id=0, eos_token_id=1, pad_token_id=2,
            )
        )  # fmt: skip
    with caplog.at_level(logging.WARNING):
        found, _ = written(tmp_path, 0, teacher=teacher)
    assert f"unrecognised LM head of {type(teacher).__name__}; storing full log-probabilities" in caplog.text
    assert found.values.shape == (12, V)
    with torch.no_grad():
        expected = response_logits(teacher, collate(RAGGED, 2)).log_softmax(-1)
    torch.testing.assert_close(found.target(RAGGED).predictions.logits(slice(0, 12)), expected)


@pytest.mark.parametrize("k", [0, 5])
@pytest.mark.parametrize("name", TEACHER)
def test_a_loss_does_not_depend_on_the_rows_that_it_passes_over_at_a_time(name, k, tmp_path, monkeypatch):
    target = written(tmp_path, k)[0].target(RAGGED)
    whole = loss(name, target)
    monkeypatch.setattr(chunked_logits, "CPU_CHUNK", 2 * 4 * V)
    parts = loss(name, target)
    assert parts[0] == pytest.approx(whole[0], rel=1e-5, abs=1e-6)
    torch.testing.assert_close(parts[1], whole[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("live", [True, False])
def test_no_more_logits_of_a_teacher_than_of_a_chunk(live, tmp_path, monkeypatch):
    sizes = []
    monkeypatch.setattr(chunked_logits, "CPU_BUDGET", 4 * chunked_logits.CPU_COPIES * 4 * V)
    monkeypatch.setattr(
        teacher_cache.Whole, "meet", functools.partialmethod(_counting, teacher_cache.Whole.meet, sizes)
    )
    known = None if live else written(tmp_path, 0)[0].target(RAGGED)
    value, _ = loss("kd", known)
    assert sizes == [4, 4, 4]
    monkeypatch.undo()
    assert value == pytest.approx(loss("kd", None)[0], rel=1e-4)


def test_a_loss_passes_over_few_rows_of_a_chunk_at_a_time(monkeypatch):
    sizes = []
    monkeypatch.setattr(chunked_logits, "CPU_CHUNK", 5 * 4 * V)
    monkeypatch.setattr(
        teacher_cache.Whole, "meet", functools.partialmethod(_counting, teacher_cache.Whole.meet, sizes)
    )
    loss("kd", None)
    assert sizes == [5, 5, 2]


def _counting(self, meet, sizes, part, student, labels):
    """As Whole.meet, and count the tokens whose logits it has."""
    own, teacher, places = meet(self, part, student, labels)
    sizes.append(len(teacher))
    assert len(own) == len(teacher)
    return own, teacher, places


@pytest.mark.parametrize("name", TEACHER)
def test_all_tokens_kept_give_the_dense_loss(name, tmp_path):
    found, _ = written(tmp_path, V)
    live, cached = loss(name, None), loss(name, found.target(RAGGED))
    assert cached[0] == pytest.approx(live[0], rel=1e-4, abs=1e-6)
    torch.testing.assert_close(cached[1], live[1], rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", TEACHER)
def test_all_tokens_kept_equal_dense_to_the_last_digits(name):
    student, teacher, labels = logits()
    dense = evaluate(name, student, teacher, labels)
    coarse = evaluate(name, *events(student, teacher, labels, 12))
    torch.testing.assert_close(coarse, dense, rtol=1e-9, atol=1e-12)
    (one,), (other,) = (torch.autograd.grad(value.sum(), student) for value in (coarse, dense))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("k", [1, 3, 11])
@pytest.mark.parametrize("spread", [0.1, 3.0, 30.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", TEACHER)
def test_a_coarse_loss_is_finite_with_a_gradient(name, dtype, spread, k):
    student, teacher, labels = logits(torch.float32, spread=spread)
    student = student.detach().to(dtype).requires_grad_()
    value = evaluate(name, *events(student, teacher.to(dtype).float(), labels, k))
    value.sum().backward()
    assert torch.isfinite(value).all()
    assert torch.isfinite(student.grad).all()
    assert float(student.grad.abs().max()) > 0


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("name", ["kd", "rkl", "jsd", "tvd", "gkd", "distillm", "imitkd"])
def test_a_coarse_divergence_is_never_negative_and_never_more_than_the_full_one(name, k):
    student, teacher, labels = logits()
    params = {"ce_weight": 0} if "ce_weight" in METHODS[name].params.model_fields else {}
    full = evaluate(name, student, teacher, labels, **params)
    coarse = evaluate(name, *events(student, teacher, labels, k), **params)
    assert (coarse >= 0).all()
    assert (coarse <= full + 1e-12).all()
    assert (coarse < full - 1e-6).any()  # something was lost, or this shows nothing


@pytest.mark.parametrize("k", [1, 3, 12])
def test_where_both_agree_a_coarse_loss_is_zero_with_no_gradient(k):
    student, _, labels = logits(torch.float32)
    value = evaluate("kd", *events(student, student.detach(), labels, k), ce_weight=0)
    value.sum().backward()
    assert float(value.detach().abs().max()) < 1e-6
    assert float(student.grad.abs().max()) < 1e-6


@pytest.mark.parametrize("k", [1, 3, 12])
def test_cross_entropy_is_exact_whatever_is_kept(k):
    student, teacher, labels = logits()
    exact = torch.nn.functional.cross_entropy(student, labels, reduction="none")
    torch.testing.assert_close(evaluate("kd", *events(student, teacher, labels, k), ce_weight=1), exact)


@pytest.mark.parametrize("name", TEACHER)
def test_the_padding_of_a_teachers_larger_vocabulary_is_no_event(name):
    _, teacher, labels = logits()
    student, labels = logits(vocabulary=9)[0], labels % 9
    dense = evaluate(name, student, teacher[:, :9], labels)
    coarse = evaluate(name, *events(student, teacher, labels, 12))
    torch.testing.assert_close(coarse, dense, rtol=1e-9, atol=1e-12)
    (one,), (other,) = (torch.autograd.grad(value.sum(), student) for value in (coarse, dense))
    torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-11)


def test_the_events_are_certain_together():
    _, teacher, labels = logits()
    log_p = teacher.log_softmax(-1)
    for k in (1, 5, 12):
        found = of_events(log_p, log_p.topk(k).indices, labels)
        assert found.shape == (6, k + 2)
        torch.testing.assert_close(found.exp().sum(-1), torch.ones(6, dtype=torch.float64))


# ----------------------------------------------------------------------------------------------------------- the files


def test_each_sequence_is_written_once_and_found_by_its_tokens_not_by_its_place(tmp_path):
    found, cost = written(tmp_path, 0, [*RAGGED, RAGGED[1]])
    assert cost["teacher_tokens_scored"] == 12
    assert 12 * 16 * 4 + V * 16 * 4 < cost["signals_bytes"] < 12 * 16 * 4 + V * 16 * 4 + OVERHEAD
    assert isinstance(found.values, np.memmap)
    forwards, backwards = found.target(RAGGED), found.target(RAGGED[::-1])
    whole = forwards.predictions.logits(slice(0, 12))
    last = backwards.predictions.logits(slice(0, 1))
    torch.testing.assert_close(whole[-1:], last)
    assert found.target([*RAGGED, Tokens([0, 9], [9])]) is None


def test_where_the_response_begins_tells_sequences_apart(tmp_path):
    early, late = Tokens([0, 5], [6, 7, 1]), Tokens([0, 5, 6], [7, 1])
    found, cost = written(tmp_path, 0, [early, late])
    assert cost["teacher_tokens_scored"] == 5
    first, second = (found.target([s]).predictions.logits(slice(0, 9)) for s in (early, late))
    torch.testing.assert_close(first[1:], second)


def test_few_tokens_take_few_bytes_and_dense_those_of_hidden_states(tmp_path):
    _, few = written(tmp_path / "few", 4)
    assert few["signals_bytes"] < 12 * (4 * 6 + 4 * 4) + OVERHEAD
    written(tmp_path / "dense", 0, teacher=tiny.llama(2).bfloat16())
    dense = {file.name: file.stat().st_size for file in (tmp_path / "dense").iterdir()}
    assert dense["states.npy"] == 12 * 2 * 16 + 128  # 2 D per token, and NumPy's header
    assert 2 * 16 * V <= dense["head.safetensors"] < 2 * 16 * V + 200


@pytest.mark.parametrize("k", [0, 7])
def test_writing_in_chunks_changes_nothing(tmp_path, k):
    whole, _ = written(tmp_path / "whole", k)
    chunked, _ = written(tmp_path / "chunked", k, rows=2)
    np.testing.assert_allclose(chunked.values, whole.values, rtol=1e-4, atol=1e-5)


def test_signals_of_another_tokenizer_are_refused(tmp_path):
    written(tmp_path, 0)
    with pytest.raises(StageError, match="another tokenizer"):
        TeacherCache(tmp_path, "other")


def test_a_disk_that_is_too_small_is_named_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setattr(teacher_cache.shutil, "disk_usage", lambda _: type("usage", (), {"free": 100}))
    with pytest.raises(StageError, match=r"take 0\.0 GB") as error:
        written(tmp_path, 0)
    assert "--teacher-logprobs top-64" in error.value.remedy
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------------------- plan and stage


@pytest.mark.parametrize(("said", "kept"), [("live", None), ("dense", 0), ("top-1", 1), ("top-64", 64)])
def test_what_signals_keep(said, kept):
    assert kept_tokens(said) == kept


@pytest.mark.parametrize("said", ["", "top", "top-0", "top-k", "Dense", "top--1", "64"])
def test_anything_else_is_refused(said):
    with pytest.raises(UsageError, match="teacher_logprobs is") as error:
        kept_tokens(said)
    assert "top-64" in error.value.remedy


def plan(method, seed=0, **protocol):
    from plad_bench.plan import matrix, spec

    run = spec.build(
        tiny.registry(),
        task="demo",
        methods=method,
        student="",
        teacher="",
        pairs="",
        metrics="",
        seeds=seed + 1,
        threads=1,
        overrides={"demo": protocol},
    )
    return next(c.checkpoint for c in matrix.cells(run, tiny.registry()) if c.method and c.seed == seed)


def roles(method, teacher_logprobs="top-8", **more):
    inputs = plan(method, teacher_logprobs=teacher_logprobs, **more).inputs
    return {role for role in inputs if role == "teacher" or role.startswith("signals")}


def test_live_is_what_it_always_was():
    assert plan("kd", teacher_logprobs="live").key == plan("kd").key
    assert roles("kd", "live") == {"teacher"}


def test_what_changes_a_training_is_in_its_key_and_what_changes_signals_in_theirs():
    def keys(**protocol):
        made = plan("kd", teacher_logprobs="top-8", **protocol)
        return made.key, made.inputs["signals-reference"].key

    assert keys(lora=4)[0] != keys()[0]
    assert keys(lora=4)[0] != keys(lora=8)[0]
    assert keys(lora=4)[1] == keys()[1]
    assert keys(precision="bf16")[1] != keys()[1]


def test_signals_take_the_teachers_place_where_the_text_is_fixed():
    assert roles("kd") == {"signals-reference"}
    assert roles("kd[data=teacher]") == {"signals-teacher"}
    assert roles("distillm2") == {"signals-teacher", "signals-sample"}
    assert roles("tvd") == {"signals-teacher", "teacher"}  # its other term is on the student's text
    assert roles("distillm") == {"signals-reference", "teacher"}  # samples, and validates
    assert roles("skd") == roles("opd") == roles("minillm") == {"teacher"}
    assert roles("sft") == roles("seqkd") == set()


def test_methods_and_seeds_share_signals_as_far_as_they_share_the_text():
    of = {
        name: plan(name, seed, teacher_logprobs="top-8").inputs
        for seed, name in ((0, "kd"), (0, "akl"), (0, "distillm2"))
    }
    later = {name: plan(name, 1, teacher_logprobs="top-8").inputs for name in of}
    assert of["kd"]["signals-reference"].key == of["akl"]["signals-reference"].key
    assert of["kd"]["signals-reference"].key == later["kd"]["signals-reference"].key
    assert of["distillm2"]["signals-teacher"].key == later["distillm2"]["signals-teacher"].key
    assert of["distillm2"]["signals-sample"].key != later["distillm2"]["signals-sample"].key
    assert (
        plan("kd", teacher_logprobs="top-9").key
        != plan("kd", teacher_logprobs="top-8").key
        != plan("kd", teacher_logprobs="dense").key
    )


def signalled(world, k, text=Text.REFERENCE):
    spec = {"text": text.value, "k": k, "precision": "float32"}
    world.inputs[f"signals-{text}"] = world.run("signals", spec)
    return world.inputs[f"signals-{text}"]


@pytest.mark.parametrize("k", [0, 300])
@pytest.mark.parametrize(("method", "text"), [("kd", Text.REFERENCE), ("gkd", Text.REFERENCE), ("akl", Text.REFERENCE)])
def test_training_on_signals_is_training_on_the_live_teacher(tmp_path, method, text, k):
    params = {"on_policy": 0} if method == "gkd" else {}
    live = tiny.World(tmp_path / "live").train(method, params=params)
    world = tiny.World(tmp_path / "cached")
    made = signalled(world, k, text)
    del world.inputs["teacher"]
    cached = world.train(method, params=params)
    tiny.same_training(tiny.weights(world.inputs["model"]), tiny.weights(live), tiny.weights(cached))
    assert live.manifest["cost"]["teacher_tokens_scored"] == cached.manifest["cost"]["teacher_tokens_cached"]
    assert "teacher_tokens_scored" not in cached.manifest["cost"]
    assert made.manifest["cost"]["signals_bytes"] > 0


def test_text_that_has_no_signals_asks_the_teacher(tmp_path):
    world = tiny.World(tmp_path)
    signalled(world, 0, Text.TEACHER)
    cost = world.train("tvd", max_new_tokens=4).manifest["cost"]
    assert cost["teacher_tokens_cached"] > 0
    assert cost["teacher_tokens_scored"] > 0


def test_a_sequence_without_signals_and_without_a_teacher_is_an_error(tmp_path):
    world = tiny.World(tmp_path)
    signalled(world, 0)
    del world.inputs["teacher"]
    world.model("model", tiny.llama(1, max_position_embeddings=8))  # cuts what the teacher read whole
    with pytest.raises(StageError, match="no precomputed teacher log-probabilities") as error:
        world.train("kd")
    assert "--teacher-logprobs live" in error.value.remedy


def test_what_signals_cost_and_saved_is_in_the_record(tmp_path):
    world = tiny.World(tmp_path)
    about = json.loads((signalled(world, 5).path / "signals.json").read_text())
    assert about["k"] == 5
    assert about["vocabulary"] == V


# ------------------------------------------------------------------------------- padding, and contexts that differ


def padded(model, rows, mass=6.0):
    """The model with `rows` tokens more that no tokenizer knows, each likelier than any other."""
    wide = tiny.llama(0, vocabulary=V + rows)
    own = {name: weight for name, weight in model.state_dict().items() if "embed" not in name and "lm_head" not in name}
    wide.load_state_dict(own, strict=False)
    with torch.no_grad():
        for part in ("embed_tokens", "lm_head"):
            (theirs,), (mine,) = ([w for n, w in m.named_parameters() if part in n] for m in (wide, model))
            theirs[:V] = mine
            theirs[V:] = mass * mine[5]
    return wide


@pytest.mark.parametrize("k", [0, 4])
def test_a_teachers_padding_is_in_no_distribution_and_in_no_tail(tmp_path, k):
    world, worlds = tiny.World(tmp_path / "plain"), tiny.World(tmp_path / "padded")
    worlds.model("teacher", padded(tiny.llama(2), 20))
    plain, wide = (signalled(w, k).path for w in (world, worlds))
    for file in ("logprobs.npy", "ids.npy") if k else ("states.npy",):
        np.testing.assert_allclose(np.load(wide / file), np.load(plain / file), rtol=1e-4, atol=1e-5)
    assert json.loads((wide / "signals.json").read_text())["vocabulary"] == V
    if not k:
        assert load_file(wide / "head.safetensors")["weight"].shape == (V, 16)
    heavy, _ = written(tmp_path / "unaware", 4, teacher=padded(tiny.llama(2), 20))
    aware, _ = written(tmp_path / "aware", 4, teacher=padded(tiny.llama(2), 20), words=V)
    assert np.abs(heavy.values[:, 0] - aware.values[:, 0]).max() > 0.1  # the padding has a weight that would show


@pytest.mark.parametrize("k", [None, 0, 4, V])
@pytest.mark.parametrize("method", ["kd", "rkl", "akl"])
def test_a_loss_is_the_same_with_a_padded_teacher_and_a_padded_student(tmp_path, method, k):
    settings = tiny.registry().configure(METHODS[method], {})
    term = METHODS[method].objective.terms[0]

    def value(student, teacher, directory):
        known = None
        if k is not None:
            known = written(directory, k, teacher=teacher, words=V)[0].target(RAGGED)
        return TokenLoss(student, teacher, settings)(term, collate(RAGGED, 2), 12, known)[0].item()

    student, teacher = tiny.llama(1), tiny.llama(2)
    plain = value(student, teacher, tmp_path / "plain")
    assert value(student, padded(teacher, 20), tmp_path / "teacher") == pytest.approx(plain, rel=1e-4)
    if k is not None:  # live, the padding that both have is compared, too
        assert value(padded(student, 10), padded(teacher, 20), tmp_path / "both") == pytest.approx(plain, rel=1e-4)


def test_a_token_that_a_text_says_is_no_padding():
    assert teacher_cache.words(tiny.tokenizer(), RAGGED) == V
    assert teacher_cache.words(tiny.tokenizer(), [Tokens([0, 5], [310, 1])]) == 311


@pytest.mark.parametrize("k", [None, 0, 4])
@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_text_is_cut_to_a_teachers_shorter_context_and_counted(tmp_path, kind, k):
    world = tiny.World(tmp_path)
    world.model("teacher", tiny.ARCHITECTURES[kind](2, max_position_embeddings=8))
    if k is not None:
        signalled(world, k)
        del world.inputs["teacher"]
    whole = tiny.World(tmp_path / "whole").train("kd", steps=2)
    cut = world.train("kd", steps=2)
    assert whole.manifest["counts"].get("truncated_sequences", 0) == 0
    assert cut.manifest["counts"]["truncated_sequences"] > 0
    assert cut.manifest["cost"]["tokens_read"] < whole.manifest["cost"]["tokens_read"]


def test_a_teacher_that_has_no_room_for_what_the_student_says_is_refused(tmp_path):
    world = tiny.World(tmp_path)
    world.model("teacher", tiny.gpt2(2, max_position_embeddings=12))
    with pytest.raises(StageError, match="the teacher's context of 12 leaves beside 6 new tokens"):
        world.train("gkd", max_new_tokens=6)


def test_a_metric_reads_no_more_than_both_can(tmp_path):
    models.save(tiny.llama(1), tiny.tokenizer(), tmp_path / "student")
    models.save(tiny.gpt2(2, max_position_embeddings=9), tiny.tokenizer(), tmp_path / "teacher")
    counts = {}
    student, teacher = (Evaluated(tmp_path / name, "cpu", "float32", 8, counts) for name in ("student", "teacher"))
    text = [("red house", Response(text="a small tower near the old bridge"))]
    (alone,) = student.measure(text, lambda logits, labels: logits[:, :1])
    (both,) = student.measure(text, lambda logits, other, labels: other[:, :1] - logits[:, :1], teacher)
    assert len(both) < len(alone)
    assert counts == {"truncated_sequences": 1}
