"""Text from the student in training: sampling against a plain loop, draws, replay, schedules, resume, accounting."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from types import SimpleNamespace

import pytest
import tiny
import torch
from tokenizers import Tokenizer, models
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from plad_bench import Access, Method, Sampling, StageError, Term, Text, TokenObjective
from plad_bench.contract.memory_policy import MemoryPolicy
from plad_bench.contract.registry import Registry
from plad_bench.execute import recording
from plad_bench.learn import training
from plad_bench.learn.length import StepCount
from plad_bench.learn.objectives import TokenLoss
from plad_bench.learn.rollouts import Rollouts, draw
from plad_bench.learn.sequences import Tokens
from plad_bench.learn.steps import TokenSteps, choice
from plad_bench.plan import matrix, spec
from plad_bench.testing import token_loss
from plad_bench_plugins.methods.minillm import MiniLLMParams

METHODS = {name: found[0].component for name, found in Registry.load().components("method").items()}
VOCABULARY, PAD, END = 13, 0, 1
PROMPTS = [[2, 5], [2, 7, 3, 9, 4], [2], [2, 11, 6]]
EXAMPLES = ["a", "b", "c", "d"]
WITHOUT = Sampling()
MIXED = Sampling(teacher_mix=0.4, temperature=1.3)
VERIFIED = Sampling(verify_top_k=3, draft=3)


def tokenizer():
    words = {"<pad>": PAD, "</s>": END, **{f"w{i}": i for i in range(2, VOCABULARY)}}
    made = Tokenizer(models.WordLevel(words, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>")


def llama(seed, dropout=0.0, vocabulary=VOCABULARY):
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        max_position_embeddings=32,
        attention_dropout=dropout,
        initializer_range=0.5,
        bos_token_id=2,
        eos_token_id=END,
        pad_token_id=PAD,
    )
    torch.manual_seed(seed)
    return LlamaForCausalLM(config).eval()


def gpt2(seed):
    torch.manual_seed(seed)
    shape = {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32, "initializer_range": 0.5}
    config = GPT2Config(vocab_size=VOCABULARY, eos_token_id=END, bos_token_id=2, pad_token_id=PAD, **shape)
    return GPT2LMHeadModel(config).eval()


def rollouts(student=None, teacher=None, **more):
    settings = {"max_new_tokens": 8, "seed": 0, **more}
    return Rollouts(student or llama(0), teacher or llama(1), tokenizer(), **settings)


# ---------------------------------------------------------------------------------------------------------- sampling


def plainly(roll, prompt, example, step, sampling):
    """The same text, one sequence and one token at a time, with no cache, no padding and no draft."""
    noise = roll._noise(step, example)
    text = []
    while len(text) < roll.max_new_tokens and (not text or text[-1] != END):
        with torch.no_grad():
            q, p = (
                (m(torch.tensor([prompt + text])).logits[0, -1, :VOCABULARY] / sampling.temperature).softmax(-1)
                for m in (roll.student, roll.teacher)
            )
        q = (1 - sampling.teacher_mix) * q + sampling.teacher_mix * p
        proposal, own = (draw(d, u) for d, u in zip((q, p), noise[len(text)], strict=True))
        if sampling.verify_top_k and proposal not in p.topk(sampling.verify_top_k).indices:
            proposal = own
        text.append(int(proposal))
    return text


@pytest.mark.parametrize("model", [llama, gpt2])
@pytest.mark.parametrize(
    "sampling",
    [
        WITHOUT,
        Sampling(temperature=0.5),
        MIXED,
        *(replace(VERIFIED, draft=n) for n in (1, 2, 3, 5, 11)),
        Sampling(draft=3),
    ],
    ids=str,
)
def test_a_batch_with_caches_says_what_a_plain_loop_says(model, sampling):
    roll = rollouts(model(0), model(1))
    made = [roll.sample(PROMPTS, EXAMPLES, step, sampling) for step in range(6)]
    expected = [
        [plainly(roll, p, e, step, sampling) for p, e in zip(PROMPTS, EXAMPLES, strict=True)] for step in range(6)
    ]
    assert made == expected
    lengths = {len(text) for texts in made for text in texts}
    assert len(lengths) > 2  # some ended early, and rows of a batch went on at their own pace
    assert all(END not in text[:-1] for texts in made for text in texts)


def test_a_text_depends_on_seed_step_and_example_and_on_nothing_else():
    roll, one_by_one = rollouts(), rollouts(memory_policy=MemoryPolicy(1))
    everyone = roll.sample(PROMPTS, EXAMPLES, 3, WITHOUT)
    torch.manual_seed(99)
    state = torch.get_rng_state()
    assert roll.sample(PROMPTS[::-1], EXAMPLES[::-1], 3, WITHOUT) == everyone[::-1]
    assert roll.sample(PROMPTS[1:2], EXAMPLES[1:2], 3, WITHOUT) == everyone[1:2]
    assert one_by_one.sample(PROMPTS, EXAMPLES, 3, WITHOUT) == everyone
    assert torch.equal(torch.get_rng_state(), state)  # what dropout draws from is left alone
    assert roll.sample(PROMPTS, EXAMPLES, 4, WITHOUT) != everyone
    assert roll.sample(PROMPTS, EXAMPLES[::-1], 3, WITHOUT) != everyone
    assert rollouts(seed=1).sample(PROMPTS, EXAMPLES, 3, WITHOUT) != everyone


def test_dropout_is_off_while_sampling_and_on_again_after():
    student = llama(0, dropout=0.9).train()
    first, second = (rollouts(student).sample(PROMPTS, EXAMPLES, 0, WITHOUT) for _ in range(2))
    assert first == second == rollouts(llama(0)).sample(PROMPTS, EXAMPLES, 0, WITHOUT)
    assert student.training


def test_tokens_are_drawn_from_the_mixture():
    count, roll = 3000, rollouts(max_new_tokens=1)
    made = roll.sample([PROMPTS[1]] * count, [str(i) for i in range(count)], 0, MIXED)
    with torch.no_grad():
        q, p = ((m(torch.tensor([PROMPTS[1]])).logits[0, -1] / 1.3).softmax(-1) for m in (roll.student, roll.teacher))
    expected = 0.6 * q + 0.4 * p
    seen = torch.bincount(torch.tensor(made).flatten(), minlength=VOCABULARY) / count
    assert (seen - expected).abs().max() < 4 * math.sqrt(0.25 / count)
    assert (seen - q).abs().max() > 4 * math.sqrt(0.25 / count)


def test_verified_text_keeps_exactly_the_tokens_in_the_teachers_top_k():
    roll = rollouts()
    noise_of_the_student = rollouts().sample(PROMPTS, EXAMPLES, 0, WITHOUT)
    kept = roll.sample(PROMPTS, EXAMPLES, 0, replace(VERIFIED, verify_top_k=VOCABULARY))
    assert kept == noise_of_the_student  # every token is among all: the student's text as it is
    for prompt, text in zip(PROMPTS, roll.sample(PROMPTS, EXAMPLES, 0, VERIFIED), strict=True):
        with torch.no_grad():
            p = roll.teacher(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
            q = roll.student(torch.tensor([prompt + text])).logits[0, len(prompt) - 1 : -1]
        noise = roll._noise(0, EXAMPLES[PROMPTS.index(prompt)])[: len(text)]
        proposed = draw(q.softmax(-1), noise[:, 0]).tolist()
        allowed = p.topk(3).indices.tolist()
        for token, proposal, top, own in zip(text, proposed, allowed, draw(p.softmax(-1), noise[:, 1]), strict=True):
            assert token == (proposal if proposal in top else own)


def test_only_tokens_of_the_tokenizer_are_drawn():
    padded = llama(0, vocabulary=VOCABULARY + 40)
    made = rollouts(padded, llama(1, vocabulary=VOCABULARY + 3)).sample(PROMPTS * 20, EXAMPLES * 20, 0, MIXED)
    assert max(token for text in made for token in text) < VOCABULARY


def test_draw_inverts_the_distribution_function_and_never_gives_an_impossible_token():
    distribution = torch.tensor([0.0, 0.25, 0.0, 0.75, 0.0])
    numbers = torch.tensor([0.0, 0.2499, 0.2501, 0.5, 1 - 2**-53], dtype=torch.float64)
    assert draw(distribution.expand(5, 5), numbers).tolist() == [1, 1, 3, 3, 3]


@pytest.mark.parametrize("size", [9_000, 32_768])
def test_a_large_vocabulary_is_drawn_from_in_parts_with_the_same_result(size):
    generator = torch.Generator().manual_seed(0)
    distribution = (4 * torch.randn(50, 3, size, generator=generator)).softmax(-1)
    distribution[:, 1, 7:] = 0  # most parts are impossible
    distribution[:, 2, :-1] = 0
    numbers = torch.rand(50, 3, dtype=torch.float64, generator=generator)
    numbers[0], numbers[1] = 0, 1 - 2**-53
    cumulated = distribution.double().cumsum(-1)
    places = (numbers * cumulated[..., -1])[..., None]
    drawn = draw(distribution, numbers)
    assert torch.equal(drawn, torch.searchsorted(cumulated, places, right=True)[..., 0])
    assert (distribution.gather(-1, drawn[..., None]) > 0).all()


def test_a_prompt_without_room_for_a_response_is_refused():
    rollouts(max_new_tokens=27).check(PROMPTS)
    with pytest.raises(StageError, match="1 prompts are longer"):
        rollouts(max_new_tokens=28).check(PROMPTS)


def test_the_teacher_mixes_or_verifies():
    with pytest.raises(ValueError, match="mutually exclusive"):
        Sampling(teacher_mix=0.1, verify_top_k=2)


def test_what_was_sampled_and_scored_is_counted():
    for sampling, scored in ((WITHOUT, 0.0), (MIXED, 1.0)):
        roll = rollouts()
        made = sum(map(len, roll.sample(PROMPTS, EXAMPLES, 0, sampling)))
        assert roll.cost == {"tokens_generated": made, "teacher_tokens_scored": scored * made}
    roll = rollouts(max_new_tokens=6)
    made = sum(map(len, roll.sample(PROMPTS, EXAMPLES, 0, VERIFIED)))
    assert roll.cost["tokens_generated"] == made
    assert roll.cost["teacher_tokens_scored"] % 3 == 0  # whole drafts, the wasted part of them too
    assert roll.cost["teacher_tokens_scored"] >= made


# --------------------------------------------------------------------------------------------------- mixtures, replay


@dataclass
class Asked(Rollouts):
    """Samples nothing and remembers what it was asked for."""

    asked: list[tuple[int, int]] = field(default_factory=list)

    def sample(self, prompts, examples, step, sampling):
        self.asked.append((step, len(prompts)))
        return [[3, 100 + step, END] for _ in prompts]


def steps_of(method, params, *, student=None, roll=None, steps=30, batch=4, seed=0):
    """The steps of a method on four prompts with two responses each from every source."""
    student = student or llama(0)
    cost: dict[str, float] = {}
    roll = roll or rollouts(student, cost=cost, seed=seed)
    fixed = {t: [[Tokens(p, [i + 3, 4, END]) for i in range(2)] for p in PROMPTS] for t in Text}
    return TokenSteps(
        method.objective,
        method.params(**params),
        TokenLoss(student, llama(1), method.params(**params)),
        examples=EXAMPLES,
        prompts=PROMPTS,
        fixed=fixed,
        order=[[(n + i) % 4 for i in range(batch)] for n in range(steps)],
        rollouts=roll,
        validation=[Tokens(p, [5, 6, END]) for p in PROMPTS],
        cost=cost,
        seed=seed,
        pad=PAD,
        device="cpu",
    )


def asked_by(name, params, steps, batch, seed=0):
    """How many of each step's sequences are freshly sampled."""
    roll = Asked(llama(0), None, tokenizer(), max_new_tokens=4, seed=seed)
    made = steps_of(METHODS[name], params, roll=roll, steps=steps, batch=batch, seed=seed)
    for number in range(steps):
        made.at(number, number / steps)
    asked = dict(roll.asked)
    return [asked.get(number, 0) for number in range(steps)]


def test_a_draw_depends_on_its_scope_alone_and_follows_the_shares():
    shares = {Text.REFERENCE: 0.2, Text.STUDENT: 0.5, Text.REPLAY: 0.3}
    drawn = [choice(shares, 7, n) for n in range(4000)]
    torch.manual_seed(1)
    assert [choice(shares, 7, n) for n in range(4000)] == drawn
    assert [choice(shares, 8, n) for n in range(4000)] != drawn
    for text, share in shares.items():
        assert abs(drawn.count(text) / 4000 - share) < 4 * math.sqrt(share * (1 - share) / 4000)


def test_gkd_draws_once_for_a_whole_step():
    asked = asked_by("gkd", {"on_policy": 0.3}, steps=400, batch=2)
    assert set(asked) == {0, 2}
    assert abs(asked.count(2) / 400 - 0.3) < 4 * math.sqrt(0.21 / 400)
    assert asked_by("gkd", {"on_policy": 0.3}, steps=400, batch=2) == asked
    assert asked_by("gkd", {"on_policy": 0.3}, steps=400, batch=2, seed=1) != asked


def test_imitkd_draws_for_every_sequence_and_turns_to_the_student():
    asked = asked_by("imitkd", {}, steps=400, batch=4)
    assert asked[0] == 0
    assert {1, 2, 3} <= set(asked)
    for begin in range(0, 400, 100):
        shares = [1 - 200 ** (-n / 400) for n in range(begin, begin + 100)]
        deviation = math.sqrt(sum(4 * s * (1 - s) for s in shares))
        assert abs(sum(asked[begin : begin + 100]) - 4 * sum(shares)) < 4 * deviation


def test_distillm_replays_what_it_sampled_and_samples_while_there_is_nothing_to_replay():
    roll = Asked(llama(0), None, tokenizer(), max_new_tokens=4, seed=0)
    made = steps_of(METHODS["distillm"], {"student": 1, "replayed": 0.5, "buffer": 6}, roll=roll, steps=60)
    trained = [responses_of(made.at(number, number / 60)) for number in range(60)]
    fresh = {number for number, _ in roll.asked}
    assert 0 in fresh
    assert 15 < len(fresh) < 45
    for number, texts in enumerate(trained):
        made_at = {text[1] - 100 for text in texts}
        assert made_at == {number} if number in fresh else max(made_at) < number
    assert [len(buffer) for buffer in made.replay] == [6]
    latest = sorted(fresh)[-2:]
    assert [s.response[1] - 100 for s in made.replay[0]] == [latest[0]] * 2 + [latest[1]] * 4


def responses_of(step):
    """The responses in a step's batches."""
    labels = [row[row != -100].tolist() for micro in step.micro_batches(0) for row in micro["batch"].labels]
    return sorted(labels)


def test_fixed_text_is_picked_as_ever_and_a_method_without_rollouts_samples_nothing():
    made = steps_of(METHODS["kd"], {"data": "teacher"}, roll=Asked(llama(0), None, tokenizer(), 4, 0))
    step = made.at(5, 0)
    assert step.tokens == sum(map(len, responses_of(step))) == 12
    assert made.rollouts.asked == []
    assert made.cost == {"teacher_tokens_scored": 12}


# --------------------------------------------------------------------------------------------- gradients and formulas


def gradient_of(step, module, size=0):
    module.zero_grad()
    for micro in step.micro_batches(size):
        module(**micro)[0].backward()
    return torch.cat([p.grad.flatten() for p in module.parameters()])


@pytest.mark.parametrize("name", ["rkl", "opd", "minillm", "skd"])
def test_no_gradient_flows_through_sampling(name):
    made = steps_of(METHODS[name], {})
    step = made.at(2, 0)
    assert all(p.grad is None for p in made.module.parameters())
    gradient = gradient_of(step, made.module)
    sampled = made.rollouts.sample(
        [PROMPTS[i] for i in made.order[2]], [EXAMPLES[i] for i in made.order[2]], 2, sampling_of(name)
    )

    class Again(Asked):
        def sample(self, *_):
            return sampled

    fixed = steps_of(METHODS[name], {}, student=made.module.student, roll=Again(llama(0), None, tokenizer(), 8, 0))
    assert torch.equal(gradient_of(fixed.at(2, 0), fixed.module), gradient)
    assert gradient.abs().sum() > 0


def sampling_of(name):
    (term,) = METHODS[name].objective.active(METHODS[name].params())
    return term.sampling(METHODS[name].params())


@pytest.mark.parametrize("name", ["opd", "minillm"])
def test_micro_batches_of_a_policy_gradient_add_up(name):
    whole, parts = (steps_of(METHODS[name], {}) for _ in range(2))
    assert len(parts.at(0, 0).micro_batches(1)) == 4
    torch.testing.assert_close(gradient_of(parts.at(0, 0), parts.module, 1), gradient_of(whole.at(0, 0), whole.module))


def test_opd_on_two_tokens():
    q, p = (torch.tensor([[row]], dtype=torch.float64).log() for row in ([0.25, 0.75], [0.5, 0.5]))
    q.requires_grad_()
    loss = token_loss("opd", q, p, torch.tensor([[0]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2) * math.log(4))  # A = log(1/2) - log(1/4)
    assert q.grad.flatten().tolist() == pytest.approx([-0.75 * math.log(2), 0.75 * math.log(2)])


def test_the_gradient_of_opd_is_that_of_reverse_kl_on_average_over_the_students_tokens():
    generator = torch.Generator().manual_seed(0)
    student, teacher = torch.randn(2, 1, 1, 6, dtype=torch.float64, generator=generator)
    student.requires_grad_()
    q = student.softmax(-1).flatten().tolist()
    expected = sum(
        q[y] * torch.autograd.grad(token_loss("opd", student, teacher, torch.tensor([[y]])), student)[0]
        for y in range(6)
    )
    (exact,) = torch.autograd.grad(token_loss("rkl", student, teacher, torch.tensor([[0]])), student)
    torch.testing.assert_close(expected, exact)


def test_minillm_weighs_a_token_by_how_much_rarer_it_is_in_the_mixture_it_came_from():
    seen = []
    method = Method(
        name="mine",
        summary="",
        paper="",
        title="",
        equation="",
        access=Access.LOGITS,
        params=MiniLLMParams,
        objective=TokenObjective(
            terms=(
                Term(
                    advantage=lambda trace, _: seen.append(trace) or trace.mask,
                    text=Text.STUDENT,
                    sampling=lambda params: Sampling(teacher_mix=params.teacher_mix, temperature=2),
                ),
            )
        ),
    )
    q, p = (torch.tensor([[row] * 2], dtype=torch.float64).log() for row in ([0.2, 0.8], [0.9, 0.1]))
    token_loss(method, q, p, torch.tensor([[0, -100]]))
    (trace,) = seen
    warm_q, warm_p = 1 / (1 + 2), 3 / (3 + 1)  # at temperature 2: square roots, normalised
    assert trace.behaviour.tolist()[0] == pytest.approx([math.log(0.8 * warm_q + 0.2 * warm_p), 0])
    assert trace.student.tolist()[0] == pytest.approx([math.log(0.2), 0])
    assert trace.teacher.tolist()[0] == pytest.approx([math.log(0.9), 0])
    assert trace.mask.tolist() == [[1, 0]]


# ---------------------------------------------------------------------------------------------------- kill and resume


class KilledError(Exception):
    """Stands for SIGKILL."""


def trained(name, params, path, steps=30, kill_before=None):
    """Train and return everything that must not depend on a kill."""
    student = llama(0, dropout=0.1)
    made = steps_of(METHODS[name], params, student=student, steps=steps)

    def progress(done, *_, **__):
        if done == kill_before:
            raise KilledError

    result = training.train(
        made.module,
        made,
        length=StepCount(steps),
        lr=3e-2,
        seed=0,
        precision="float32",
        device="cpu",
        checkpoint=path,
        progress=progress,
    )
    return result, made.state(), student.state_dict()


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("gkd", {}),
        ("distillm", {"raise_by": 1.0}),
        ("distillm", {"student": 0.9, "replayed": 0.6, "buffer": 10}),
        ("taid", {"alpha": 0.05}),
        ("imitkd", {}),
        ("minillm", {}),
    ],
)
def test_a_killed_run_ends_as_one_that_was_never_killed(name, params, tmp_path):
    result, state, weights = trained(name, params, tmp_path / "whole.pt")
    path = tmp_path / "killed.pt"
    with pytest.raises(KilledError):
        trained(name, params, path, kill_before=28)
    assert path.exists()
    again, state_again, weights_again = trained(name, params, path)
    assert again == result
    assert state_again == state
    assert weights.keys() == weights_again.keys()
    assert all(torch.equal(weights[k], weights_again[k]) for k in weights)
    assert len(result.curve) == 4
    assert state["cost"]["teacher_tokens_scored"] >= result.tokens
    if name == "distillm":
        assert 0 < len(state["replay"][0]) <= 40
        assert 0 < state["schedule"]["share"] <= 1
    if name == "taid":
        assert state["schedule"]["t"] == 1
        assert [row["t"] for row in result.curve] == sorted(row["t"] for row in result.curve)


def test_a_checkpoint_without_its_memory_is_begun_again(tmp_path):
    path = tmp_path / "checkpoint.pt"
    torch.save({"module": {}, "step": 25}, path)
    result, *_ = trained("taid", {}, path, steps=2)
    assert [row["step"] for row in result.curve] == [0, 1]


# ------------------------------------------------------------------------------------------------- plan and accounting


def distill_stage(method, **overrides):
    registry = Registry.load()
    run = spec.build(registry, task="demo", methods=method, overrides={"demo": overrides})
    (cell,) = [c for c in matrix.cells(run, registry) if c.method is not None]
    assert not cell.skip
    return cell.checkpoint


@pytest.mark.parametrize("method", ["kd", "seqkd", "taid", "gkd[on_policy=0]", "rkl[ce_weight=1]", "jsd[beta=0]"])
def test_the_length_of_responses_is_part_of_a_training_only_where_it_samples(method):
    assert "max_new_tokens" not in distill_stage(method).spec


@pytest.mark.parametrize("method", ["gkd", "imitkd", "distillm", "skd", "minillm", "opd", "rkl", "jsd", "tvd"])
def test_a_training_that_samples_is_keyed_by_how_long(method):
    assert distill_stage(method).spec["max_new_tokens"] == 80
    assert distill_stage(method).key != distill_stage(method, max_new_tokens=48).key
    assert "teacher" in distill_stage(method).inputs


def test_text_that_weighs_nothing_is_no_input():
    assert "teach" not in distill_stage("rkl").inputs
    assert "teach" in distill_stage("rkl[ce_weight=0.5]").inputs
    assert "teach" not in distill_stage("gkd[on_policy=1,data=teacher]").inputs
    assert "teach" in distill_stage("gkd[data=teacher]").inputs


def test_tokens_sampled_in_training_and_before_it_are_one_column():
    def stage(name, **cost):
        return SimpleNamespace(key=name, name=name, operation=name), {"cost": cost}

    (sample, sampled), (warmup, warmed) = stage("sample", tokens_generated=100), stage("sft-init", device_seconds=1)
    checkpoint, made = stage("distill", tokens_generated=40, teacher_tokens_scored=70, tokens_trained=50)
    checkpoint.walk = lambda: [warmup, sample, checkpoint]
    cell = SimpleNamespace(
        method=object(), checkpoint=checkpoint, trainings=[checkpoint], plan=SimpleNamespace(sft_init=warmup)
    )
    cost = recording._cost(cell, {"sample": sampled, "sft-init": warmed, "distill": made})
    assert (cost["tokens_generated"], cost["teacher_tokens_scored"], cost["tokens_trained"]) == (140, 70, 50)


# ------------------------------------------------------------------------------------------------------- the stage


@pytest.mark.parametrize("name", ["gkd", "imitkd", "distillm", "skd", "minillm", "opd", "rkl", "jsd", "tvd"])
def test_the_train_stage_runs_a_method_that_samples(name, tmp_path):
    world = tiny.World(tmp_path)
    params = {"gkd": {"on_policy": 1}, "distillm": {"student": 1}}.get(name, {})
    runs = [world.train(name, params=params, max_new_tokens=6, micro_batch=size) for size in (0, 2)]
    cost = runs[0].manifest["cost"]
    assert cost["tokens_generated"] > 0
    assert cost["teacher_tokens_scored"] >= cost["tokens_trained"] > 0
    assert tiny.curve(runs[0])[-1]["step"] == 2
    before, after, in_parts = (tiny.weights(artifact) for artifact in (world.inputs["model"], *runs))
    tiny.same_training(before, after, in_parts)


def test_a_validation_loss_needs_references(tmp_path):
    world = tiny.World(tmp_path)
    (tmp_path / "data" / "validation.jsonl").write_text("")
    with pytest.raises(StageError, match="no validation prompt has a reference"):
        world.train("distillm", max_new_tokens=6)
