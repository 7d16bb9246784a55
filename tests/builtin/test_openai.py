"""The client of OpenAI-compatible endpoints, against one that misbehaves: nothing lost, nothing asked for twice."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime

import pytest
from standin import endpoint

from plad_bench.contract.errors import BudgetError, MissingError, StageError
from plad_bench.contract.money import Budget
from plad_bench_plugins import _openai
from plad_bench_plugins._openai import EndpointParams, ask, backoff, retry_after

KEY = "sk-not-a-real-key-0123456789"


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(_openai, "FIRST_WAIT_S", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


def params(url, **more):
    return EndpointParams(**{"model": "m", "base_url": url, "concurrency": 4, "timeout": 5, **more})


def requests(p, n=12):
    return {f"id{i}": p.body(f"prompt {i}", max_tokens=8) for i in range(n)}


def test_every_question_is_answered_once_and_in_order_four_at_a_time(tmp_path):
    together = threading.Barrier(4)

    def reply(prompt):
        together.wait(10)
        return f"about {prompt}"

    with endpoint(reply=reply) as server:
        p = params(server.url)
        told = []
        answers = ask(p, requests(p), tmp_path / "j", progress=lambda done, total: told.append((done, total)))
    assert [a.text for a in answers.values()] == [f"about prompt {i}" for i in range(12)]
    assert list(answers) == [f"id{i}" for i in range(12)]
    assert set(server.asked.values()) == {1}
    assert server.most_under_way == 4
    assert told == [(i, 12) for i in range(13)]
    assert server.keys == {f"Bearer {KEY}"}
    assert server.bodies[0]["path"] == "/v1/chat/completions"


def test_faults_cost_another_try_and_nothing_else(tmp_path):
    faults = {
        "prompt 0": ["cut", (500, {}, "oops")],
        "prompt 1": [(429, {"Retry-After": "0.01"}, "slow down")],
        "prompt 2": ["garbage", (503, {}, ""), (408, {}, "")],
        "prompt 3": ["empty"],
        "prompt 4": ["length"],
        "prompt 5": ["hang"],
    }
    counts = {}
    with endpoint(faults=lambda q, n: dict(enumerate(faults.get(q, []), 1)).get(n)) as server:
        p = params(server.url, timeout=2)
        answers = ask(p, requests(p), tmp_path / "j", counts=counts)
    assert [a.text for i, a in enumerate(answers.values()) if i != 3] == [
        f"about prompt {i}" for i in range(12) if i != 3
    ]
    assert answers["id3"].text == ""
    assert [a.finished for a in answers.values()] == [i != 4 for i in range(12)]
    assert set(server.answered.values()) == {1}
    assert counts == {"retried_requests": 7}


def test_a_second_call_asks_only_for_what_is_missing(tmp_path):
    dead = {"prompt 3", "prompt 7"}
    with endpoint(faults=lambda q, n: (500, {}, "dead") if q in dead else None) as server:
        p = params(server.url, retries=1)
        with pytest.raises(StageError, match=r"2 of 12 requests to m got no response; id\d: HTTP 500: dead") as caught:
            ask(p, requests(p), tmp_path / "j")
        assert "run the same command again" in caught.value.remedy
        assert sum(server.answered.values()) == 10
        dead.clear()
        answers = ask(p, requests(p), tmp_path / "j")
        assert set(server.answered.values()) == {1}
        assert len(answers) == 12
        changed = {"id0": p.body("prompt 0", max_tokens=9)}
        ask(p, changed, tmp_path / "j")
        assert server.answered["prompt 0"] == 2, "another request under the same id is asked"


def test_half_a_line_of_a_killed_writer_costs_one_question(tmp_path):
    response_cache = tmp_path / "j"
    with endpoint() as server:
        p = params(server.url)
        ask(p, requests(p, 4), response_cache)
        lines = [line for line in response_cache.read_bytes().splitlines() if line]
        response_cache.write_bytes(b"\n".join(lines[:-1]) + b"\n" + lines[-1][:20])
        lost = json.loads(lines[-1])["id"]
        assert len(ask(p, requests(p, 4), response_cache)) == 4
        assert len(ask(p, requests(p, 4), response_cache)) == 4
    assert {q: n for q, n in server.asked.items() if n > 1} == {f"prompt {lost[2:]}": 2}


@pytest.mark.parametrize(
    ("fault", "kind", "words"),
    [
        ((401, {}, f"bad key {KEY}"), MissingError, "refused the key"),
        ((404, {}, "no model m"), MissingError, "no model m"),
        ((429, {}, '{"error": {"code": "insufficient_quota"}}'), MissingError, "no credit left"),
        ((429, {"Retry-After": "86400"}, ""), MissingError, "requests a wait of 86400 s"),
        ((400, {}, f"too long; {KEY}"), StageError, r"HTTP 400: too long; \[key\]"),
    ],
)
def test_what_will_not_pass_ends_it_soon(fault, kind, words, tmp_path):
    with endpoint(faults=lambda q, n: fault) as server:
        p = params(server.url)
        with pytest.raises(kind, match=words) as caught:
            ask(p, requests(p, 40), tmp_path / "j")
    assert KEY not in str(caught.value)
    assert max(server.asked.values()) == 1
    assert sum(server.asked.values()) < 20


def test_an_endpoint_that_is_not_there_is_a_missing_prerequisite(tmp_path):
    with endpoint() as server:
        url = server.url
    p = params(url, retries=1)
    with pytest.raises(MissingError, match="cannot be reached: no connection"):
        ask(p, requests(p), tmp_path / "j")


def test_without_a_key_only_this_machine_is_asked(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with endpoint() as server:
        p = params(server.url)
        ask(p, requests(p, 1), tmp_path / "j")
        assert server.keys == {""}
    p = params("https://example.org/v1", key_env="OTHER_KEY")
    with pytest.raises(MissingError, match="OTHER_KEY is not set"):
        ask(p, requests(p, 1), tmp_path / "k")


def test_the_key_is_written_nowhere(tmp_path):
    with endpoint(faults=lambda q, n: (500, {}, KEY) if n == 1 else None) as server:
        p = params(server.url)
        ask(p, requests(p), tmp_path / "j")
    for path in tmp_path.rglob("*"):
        assert KEY.encode() not in path.read_bytes()
    assert KEY not in repr(p)


@pytest.mark.parametrize("before", range(270, 301, 10))
def test_no_part_of_the_key_is_repeated_from_an_endpoint_that_repeats_it(before, tmp_path):
    with endpoint(faults=lambda q, n: (400, {}, f"{'x' * before}{KEY}")) as server:
        p = params(server.url)
        with pytest.raises(StageError) as caught:
            ask(p, requests(p, 1), tmp_path / "j")
    assert KEY[:3] not in caught.value.message


# ----------------------------------------------------------------------------------------------------------- money


def opened(file, limit):
    budget = Budget(file, limit=limit)
    budget.open()
    return budget


def test_a_purse_is_never_overdrawn_and_what_was_bought_is_kept(tmp_path):
    price = {"price_in": 1e6 / 1000, "price_out": 1e6 / 1000}  # 1/1000 a token; an answer costs 0.015
    budget = opened(tmp_path / "budget", 0.3)
    with endpoint() as server:
        p = params(server.url, **price)
        with pytest.raises(BudgetError, match=r"--max-cost 0\.3") as caught:
            ask(p, requests(p, 40), tmp_path / "j", budget=budget)
        bought = sum(server.answered.values())
        assert 0 < 0.015 * bought <= 0.3
        assert budget.spent == pytest.approx(0.015 * bought)
        assert 0.3 - budget.spent < 0.15, "it stops no earlier than one request before"
        assert "Paid responses are kept" in caught.value.remedy
        ask(p, requests(p, 40), tmp_path / "j", budget=opened(tmp_path / "more", 10))
    assert set(server.answered.values()) == {1}


def test_what_may_have_been_billed_counts_as_spent(tmp_path):
    budget = opened(tmp_path / "budget", 1e9)
    with endpoint(faults=lambda q, n: "garbage" if n == 1 else None) as server:
        p = params(server.url, price_in=1e6, price_out=1e6)
        ask(p, requests(p, 1), tmp_path / "j", budget=budget)
    assert budget.spent > 15 + 8


def test_an_answer_that_cannot_be_kept_is_paid_for_all_the_same(tmp_path):
    (tmp_path / "j").mkdir()
    budget = opened(tmp_path / "budget", 1e9)
    with endpoint() as server:
        p = params(server.url, price_in=1e6, price_out=1e6)
        with pytest.raises(IsADirectoryError):
            ask(p, requests(p, 1), tmp_path / "j", budget=budget)
    assert budget.spent == pytest.approx(15)


def test_a_budget_that_cannot_be_read_is_not_an_empty_one(tmp_path):
    (tmp_path / "budget").write_text("")
    with pytest.raises(MissingError, match="cannot read the amount that this run has spent from budget") as caught:
        Budget(tmp_path / "budget", limit=1.0).reserve(0.1)
    assert "Run the command again" in caught.value.remedy
    assert (tmp_path / "budget").read_text() == ""


def test_a_budget_that_is_missing_is_not_an_empty_one(tmp_path):
    budget = opened(tmp_path / "budget", 1.0)
    budget.reserve(0.9)
    budget.file.unlink()
    with pytest.raises(MissingError, match="cannot read the amount that this run has spent"):
        budget.reserve(0.9)
    Budget(tmp_path / "budget").reserve(0.9)  # where there is no limit, there is nothing to guard


def test_a_kill_while_a_purse_is_written_forgets_nothing(tmp_path, monkeypatch):
    budget = opened(tmp_path / "budget", 1.0)
    budget.reserve(0.7)

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(tmp_path), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        budget.reserve(0.2)
    assert budget.spent == pytest.approx(0.7)


def test_purses_of_several_processes_are_one(tmp_path):
    one, other = opened(tmp_path / "p", 1.0), Budget(tmp_path / "p", limit=1.0)
    one.reserve(0.7)
    with pytest.raises(BudgetError):
        other.reserve(0.4)
    one.settle(0.7, 0.5)
    other.reserve(0.4)
    assert one.spent == other.spent == pytest.approx(0.9)


# ------------------------------------------------------------------------------------------------------ the details


def test_back_off_doubles_up_to_a_limit(monkeypatch):
    monkeypatch.setattr(_openai, "FIRST_WAIT_S", 0.5)
    assert [backoff(i, 1.0) for i in range(9)] == [0.5, 1, 2, 4, 8, 16, 32, 60, 60]
    assert backoff(3, 0.0) == 2.0


@pytest.mark.parametrize(
    ("header", "seconds"),
    [("7", 7), ("0.5", 0.5), ("Fri, 02 Jan 2026 00:00:30 GMT", 30), ("", 0), ("soon", 0), ("-3", 0)],
)
def test_retry_after(header, seconds):
    assert retry_after(header, datetime(2026, 1, 2, tzinfo=UTC)) == seconds


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"model": ""}, "name the model"),
        ({"base_url": "ftp://host/v1"}, "must begin with http"),
        ({"base_url": "https://me:secret@host/v1"}, "no user, password or query"),
        ({"price_in": 1.0}, "price_in and price_out together"),
        ({"key_env": KEY}, "pattern"),
    ],
)
def test_parameters_that_make_no_sense_are_refused(wrong, words):
    with pytest.raises(ValueError, match=words):
        EndpointParams(**{"model": "m", **wrong})


def test_the_two_interfaces(tmp_path):
    p = params("http://localhost:1/v1", api="completions")
    assert p.body("x", max_tokens=3, temperature=0.0) == {
        "model": "m",
        "prompt": "x\n",
        "max_tokens": 3,
        "temperature": 0.0,
    }
    chat = params("http://localhost:1/v1").body("x", max_tokens=3, system="s")
    assert [m["role"] for m in chat["messages"]] == ["system", "user"]
    with endpoint(faults=lambda q, n: "no usage") as server:
        p = params(server.url, api="completions")
        (answer,) = ask(p, {"a": p.body("x", max_tokens=3)}, tmp_path / "j").values()
    assert (answer.text, answer.prompt_tokens) == ("about x\n", None)
    assert server.bodies[0]["path"] == "/v1/completions"


# ------------------------------------------------------------------------------------------------ what servers reply


def answers_to(choices, tmp_path, api="chat"):
    """What `ask` makes of replies with these choices, each a JSON value or bytes; every one is asked for once."""

    def fault(prompt, nth):
        choice = choices[int(prompt.split()[1])]
        whole = choice if isinstance(choice, bytes) else json.dumps({"choices": [choice]}).encode()
        return (200, {}, whole)

    with endpoint(faults=fault) as server:
        p = params(server.url, api=api)
        asked = {f"id{i}": p.body(f"prompt {i}", max_tokens=8) for i in range(len(choices))}
        answers = ask(p, asked, tmp_path / "j")
        assert set(server.asked.values()) == {1}
        assert ask(p, asked, tmp_path / "j") == answers  # from the response cache
        assert set(server.asked.values()) == {1}
    return list(answers.values())


@pytest.mark.parametrize(
    ("choice", "text"),
    [
        ({"message": {"role": "assistant", "reasoning": "hm"}, "finish_reason": "stop"}, ""),
        ({"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "stop"}, ""),
        ({"message": {"refusal": "no"}}, ""),
        ({"message": None, "finish_reason": "stop"}, ""),
        ({"message": {}}, ""),
        ({"finish_reason": "stop"}, ""),
        ({"message": {"content": [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}]}}, "one two"),
        ({"message": {"content": [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "two"}]}}, "two"),
        ({"message": {"content": []}}, ""),
    ],
    ids=str,
)
def test_a_reply_without_text_is_an_empty_answer_and_is_asked_for_once(choice, text, tmp_path):
    (answer,) = answers_to([choice], tmp_path)
    assert (answer.text, answer.finished) == (text, True)


@pytest.mark.parametrize("choice", [{"finish_reason": "stop"}, {"text": None}, {"text": "", "finish_reason": "stop"}])
def test_a_completion_without_text_is_an_empty_answer(choice, tmp_path):
    (answer,) = answers_to([choice], tmp_path, api="completions")
    assert (answer.text, answer.finished) == ("", True)


def test_only_an_answer_that_came_to_its_own_end_is_finished(tmp_path):
    ended = ["stop", "STOP", "eos", "eos_token", "end_turn", "stop_sequence", "complete", None]
    cut = ["length", "max_tokens", "MAX_TOKENS", "model_length", "content_filter", "error", "abort", "tool_calls", "?"]
    choices = [{"message": {"content": "x"}, "finish_reason": why} for why in (*ended, *cut)]
    found = [answer.finished for answer in answers_to(choices, tmp_path)]
    assert found == [True] * len(ended) + [False] * len(cut)


def test_what_is_no_unicode_in_a_reply_is_replaced_and_nothing_that_was_paid_for_is_lost(tmp_path):
    half = {"message": {"content": "a \ud83d b"}, "finish_reason": "st\udc00op"}
    pair = {"message": {"content": "\ud83d\ude00"}}
    no_utf8 = b'{"choices": [{"message": {"content": "caf\xe9"}}]}'
    marked = b'\xef\xbb\xbf{"choices": [{"message": {"content": "x"}}]}'
    answers = answers_to([half, pair, no_utf8, marked], tmp_path)
    assert [answer.text for answer in answers] == ["a \ufffd b", "\U0001f600", "caf\ufffd", "x"]
    assert not answers[0].finished
    for answer in answers:
        answer.text.encode()


def test_a_run_without_a_limit_counts_what_it_spends_in_a_fresh_store(tmp_path):
    budget = Budget(tmp_path / "store" / "spent" / "run")
    budget.reserve(0.5)
    budget.settle(0.5, 0.25)
    assert Budget(budget.file).spent == 0.25
