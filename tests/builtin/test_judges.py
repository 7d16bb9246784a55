"""Judges that are models: a reward model, and a language model behind an endpoint that misbehaves."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest
import tiny
from standin import endpoint

from plad_bench import MissingError, Scored, StageError, UsageError
from plad_bench.contract.errors import BudgetError
from plad_bench.execute.stages import files, score
from plad_bench.execute.store import RESPONSE_CACHE, Artifact
from plad_bench.plan.chosen import choose
from plad_bench_plugins import _openai
from plad_bench_plugins._openai import Answer
from plad_bench_plugins.metrics import reward, win_judge

KEY = "sk-not-a-real-key-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_openai, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


# --------------------------------------------------------------------------------------------------- a judge that asks


def context(directory, metric, prompts=6, name="score", **params):
    """A score stage of responses "good i" against the teacher's "poor i"; the last two are the same text."""
    place = {}
    for role in ("data", "responses", "teacher"):
        place[role] = Artifact(
            directory / role, {"document": {"stage": role, "spec": {"split": "test", "max_new_tokens": 4}}}
        )
        place[role].path.mkdir(exist_ok=True)
    rows = [
        files.Prompt(id=f"id{i}", split="test", prompt=f"prompt {i}", references=("good",), meta={})
        for i in range(prompts)
    ]
    files.write_prompts(place["data"].path, rows, ["test"])
    for role, word in (("responses", "good"), ("teacher", "poor")):
        texts = {row.id: f"{word if i < prompts - 1 else 'same'} {i}" for i, row in enumerate(rows)}
        answers = (
            {"id": id_, "responses": [{"text": t, "ids": None, "tokenizer": "", "finished": True}]}
            for id_, t in texts.items()
        )
        files.write_lines(place[role].path / files.RESPONSES, answers)
    return tiny.context(directory, name=name, inputs=place, job={"metric": tiny.named("metric", metric, **params)})


def values(made):
    return json.loads((made.out / files.VALUES).read_text())


def places(text):
    """The two responses in a request, by their place."""
    _, _, rest = text.partition("Response A:\n")
    a, _, rest = rest.partition("\n\nResponse B:\n")
    return a, rest.partition("\n\n")[0]


def better(text):
    """A judge that prefers good texts, but in pair 1 the first place, and in pair 2 says tie."""
    a, _ = places(text)
    if "prompt 1" in text:
        return "A"
    return "**Tie**" if "prompt 2" in text else "Response A." if a.startswith("good") else "b"


def judge(server, **more):
    return {"model": "judge-1", "base_url": server.url, "concurrency": 2, **more}


def test_both_orders_are_asked_once_each_and_kept(tmp_path):
    with endpoint(reply=better) as server:
        made = context(tmp_path, "win-judge", **judge(server))
        score.run(made)
    assert values(made) == {"id0": 1.0, "id1": 0.5, "id2": 0.5, "id3": 1.0, "id4": 1.0, "id5": 0.5}
    assert set(server.asked.values()) == {1}
    assert len(server.asked) == 10
    assert sorted(places(text) for text in server.asked if "prompt 0" in text) == [
        ("good 0", "poor 0"),
        ("poor 0", "good 0"),
    ]
    assert {body["temperature"] for body in server.bodies} == {0}
    transcript = (made.partial / RESPONSE_CACHE).read_text()
    assert len([line for line in transcript.splitlines() if line]) == 10
    assert made.counts == {"judged": 10, "unreadable": 0}
    assert server.keys == {f"Bearer {KEY}"}
    assert not any(KEY in p.read_text() for p in tmp_path.rglob("*") if p.is_file())


def test_faults_lose_nothing_and_an_interrupted_stage_asks_nothing_twice(tmp_path):
    broken = {"on": True}

    def faults(text, nth):
        if "prompt 4" in text and broken["on"]:
            return (500, {}, "down")
        kinds = {"prompt 0": (429, {"Retry-After": "0"}, "slow"), "prompt 1": "cut", "prompt 2": "garbage"}
        return next((fault for prompt, fault in kinds.items() if prompt in text and nth == 1), None)

    with endpoint(reply=better, faults=faults) as server:
        with pytest.raises(StageError, match="2 of 10 requests to judge-1 got no response"):
            score.run(context(tmp_path, "win-judge", **judge(server, retries=2)))
        broken["on"] = False
        made = context(tmp_path, "win-judge", **judge(server, retries=2))  # the same partial directory
        score.run(made)
    assert values(made)["id0"] == 1.0
    assert set(server.answered.values()) == {1}
    assert len(server.answered) == 10


def test_several_responses_to_one_prompt_are_judged_each(tmp_path):
    with endpoint(reply=better) as server:
        made = context(tmp_path, "win-judge", **judge(server))
        example = Scored(id="id0", prompt="prompt 0", references=(), meta={}, response="good 0", teacher="poor 0")
        many = [example, replace(example, response="worse 0"), replace(example, response="good again")]
        found = score.measure(made, made.chosen("metric"), many, score._Tools(made))
    assert found == [1.0, 0.5, 1.0]


def test_judges_pay_from_the_runs_purse(tmp_path):
    with endpoint(reply=better) as server:
        made = context(tmp_path, "win-judge", **judge(server, price_in=1e6, price_out=1e6))
        made.budget.limit = 1.0
        with pytest.raises(BudgetError):
            score.run(made)
    assert not server.asked


def test_answers_that_are_no_verdict(tmp_path):
    with endpoint(reply=lambda text: "I cannot say" if "prompt 3" in text else better(text)) as server:
        with pytest.raises(
            StageError, match="2 of 10 verdicts of judge judge-1 are none of A, B and tie, among them 'I can"
        ) as caught:
            score.run(context(tmp_path, "win-judge", **judge(server)))
        assert "max_tokens" in caught.value.remedy
        made = context(tmp_path, "win-judge", **judge(server, max_unreadable=0.5))
        score.run(made)
    assert values(made)["id3"] is None
    assert values(made)["id4"] == 1.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A", 1.0),
        (" [B] ", 0.0),
        ("tie.", 0.5),
        ("A tie", 0.5),
        ("Response B is careless.\nResponse A", 1.0),
        ("A is better", None),
        ("a cat", None),
        ("", None),
    ],
)
def test_verdicts(text, expected):
    answer = Answer(text=text, finish="stop")
    forth, back = win_judge.win(answer, first=True), win_judge.win(answer, first=False)
    if expected is None:
        assert math.isnan(forth)
        assert math.isnan(back)
    else:
        assert (forth, back) == (expected, 1 - expected)


def test_an_endpoint_that_is_down_is_found_before_any_work(monkeypatch):
    with endpoint() as server:
        url = server.url
        win_judge.require(win_judge.JudgeParams(model="m", base_url=url))
    with pytest.raises(MissingError, match="the endpoint of judge m does not answer") as caught:
        win_judge.require(win_judge.JudgeParams(model="m", base_url=url))
    assert "base_url" in caught.value.remedy
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(MissingError, match="OPENAI_API_KEY is not set"):
        win_judge.require(win_judge.JudgeParams(model="m"))


def test_no_address_enters_a_key_or_a_label():
    """Not even as the scorer of another metric."""
    url = "http://box.example:8000/v1"
    for text in (f"win-judge[model=m,base_url={url}]", f"win-lc[scorer=win-judge[model=m,base_url={url},rpm=7]]"):
        (chosen,) = choose(tiny.registry(), "metric", text)
        assert "box.example" not in chosen.label + json.dumps(chosen.public())
        assert "rpm" not in chosen.label + json.dumps(chosen.public())
        assert "box.example" in json.dumps(chosen.private())
    with pytest.raises(UsageError, match="name the model"):
        choose(tiny.registry(), "metric", "win-judge")


# ------------------------------------------------------------------------------------------------------ a reward model


def classifier(directory, labels=1, pad=True):
    """A random Llama classifier of the tiny tokenizer, saved."""
    import torch
    from transformers import LlamaConfig, LlamaForSequenceClassification

    torch.manual_seed(0)
    tokenizer = tiny.tokenizer(pad="<pad>" if pad else "</s>")
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_labels=labels,
        max_position_embeddings=128,
        initializer_range=0.3,
        pad_token_id=2 if pad else None,
    )
    model = LlamaForSequenceClassification(config).eval()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return model, tokenizer


def plain(model, tokenizer, prompt, response):
    import torch

    with torch.no_grad():
        return model(torch.tensor([tokenizer(prompt, response)["input_ids"]])).logits[0].tolist()


@pytest.mark.parametrize("pad", [True, False])
def test_a_reward_is_the_classifiers_logit_whatever_is_in_the_batch(tmp_path, pad):
    model, tokenizer = classifier(tmp_path / "rm", pad=pad)
    made = context(tmp_path, "reward", path=str(tmp_path / "rm"))
    score.run(made)
    expected = {
        f"id{i}": plain(model, tokenizer, f"prompt {i}", f"good {i}" if i < 5 else "same 5")[0] for i in range(6)
    }
    assert values(made) == {id_: pytest.approx(value, abs=1e-5) for id_, value in expected.items()}


def test_a_reward_model_win_rate_is_a_win_rate_by_it(tmp_path):
    model, tokenizer = classifier(tmp_path / "rm")
    made = context(tmp_path, "win-teacher", scorer=f"reward[path={tmp_path / 'rm'}]")
    score.run(made)
    for i, (id_, value) in enumerate(values(made).items()):
        mine, theirs = (plain(model, tokenizer, f"prompt {i}", f"{word} {i}")[0] for word in ("good", "poor"))
        assert value == (0.5 if id_ == "id5" else float(mine > theirs))


def test_a_classifier_with_several_labels_must_say_which_is_good(tmp_path):
    model, tokenizer = classifier(tmp_path / "rm", labels=3)
    path = str(tmp_path / "rm")
    with pytest.raises(StageError, match="3 labels: 0 LABEL_0, 1 LABEL_1, 2 LABEL_2"):
        score.run(context(tmp_path, "reward", path=path))
    made = context(tmp_path, "reward", path=path, label=2)
    score.run(made)
    a, b, c = plain(model, tokenizer, "prompt 0", "good 0")
    assert values(made)["id0"] == pytest.approx(c - math.log(math.exp(a) + math.exp(b)), abs=1e-4)


def test_what_is_no_reward_model_is_refused_before_any_work(tmp_path):
    path = tmp_path / "lm"
    tiny.llama().save_pretrained(path)
    tiny.tokenizer().save_pretrained(path)
    params = reward.RewardParams(path=path)
    with pytest.raises(
        MissingError, match="reward model lm is not a sequence classifier but LlamaForCausalLM"
    ) as caught:
        reward.require(params)
    assert "ForSequenceClassification" in caught.value.remedy
    with pytest.raises(MissingError, match="no directory"):
        reward.require(reward.RewardParams(path=tmp_path / "absent"))
    config = json.loads((path / "config.json").read_text())
    (path / "config.json").write_text(json.dumps({**config, "architectures": ["LlamaForSequenceClassification"]}))
    reward.require(params)  # it says that it is one
    with pytest.raises(MissingError, match=r"lm is not a sequence classifier: it has no weights score\.weight"):
        reward.score([Scored(id="a", prompt="p", references=(), meta={}, response="r")], params, _tools(tmp_path))
    (path / "model.safetensors").unlink()
    with pytest.raises(MissingError, match="has no safetensors file"):
        reward.require(params)


def _tools(directory):
    return score._Tools(tiny.context(directory))


def test_a_reward_models_place_is_in_no_key_and_its_content_is(tmp_path):
    classifier(tmp_path / "rm")
    (chosen,) = choose(tiny.registry(), "metric", f"calibration[scorer=reward[path={tmp_path / 'rm'}]]")
    shown = chosen.label + json.dumps(chosen.public())
    assert str(tmp_path) not in shown
    assert "rm-" in shown
    assert str(tmp_path) in json.dumps(chosen.private())
