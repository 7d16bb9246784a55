"""Teachers that are asked for text: the stage, its keys, a whole run against a stand-in endpoint, kills and budgets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import tiny
from standin import endpoint

from plad_bench.contract.components import Teacher
from plad_bench.contract.enums import Access
from plad_bench.contract.errors import MissingError, StageError, UsageError
from plad_bench.contract.params import Params
from plad_bench.contract.rows import Account
from plad_bench.execute.stages import ask
from plad_bench.execute.stages.files import Prompt, read_lines, write_prompts
from plad_bench.execute.store import Artifact
from plad_bench.plan import matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench.records import storage

KEY = "sk-not-a-real-key-0123456789"
PLUGIN = Path(__file__).parents[1] / "plugins" / "mini.py"
RUN = ("-p", str(PLUGIN), "run", "--task", "mini", "--board", "mine", "--gpus", "none")


def plad_bench(*arguments, cwd, **environment):
    environment = {**os.environ, "PLAD_BENCH_STORE": str(cwd / "store"), "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, "-m", "plad_bench", *arguments],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )


def records(directory):
    read = [storage.read(p) for p in sorted((directory / "leaderboards/mine/cells").rglob("*.json"))]
    return {r.method.name: r for r in read}


def one(text):
    (chosen,) = choose(tiny.registry(), "teacher", text)
    return chosen


# ------------------------------------------------------------------------------------------------ contract and keys


@pytest.mark.parametrize(
    "given",
    [{}, {"model": lambda p: None, "responses": "a:b"}, {"responses": "a:b", "provides": frozenset({Access.LOGITS})}],
)
def test_a_teacher_is_a_model_or_a_source_of_text(given):
    with pytest.raises(ValueError, match="teacher odd"):
        Teacher(**{"name": "odd", "summary": "", "provides": frozenset({Access.TEXT}), **given})


def test_what_changes_no_text_changes_no_key_and_hosts_are_not_shown():
    plain = one("openai[model=m,base_url=https://one.example/v1]")
    slow = one("openai[model=m,base_url=https://one.example/v1,rpm=3,concurrency=1,price_in=1,price_out=2,key_env=K]")
    other = one("openai[model=m,base_url=https://two.example/v1]")
    assert plain.public() == slow.public()
    assert plain.label == slow.label
    assert len({plain.label, other.label, one("openai[model=m]").label}) == 3
    for chosen in (plain, other, one("openai[model=m]")):
        assert "example" not in chosen.label + json.dumps(chosen.public())
        assert "openai.com" not in json.dumps(chosen.public())
    assert slow.private()["params"]["base_url"] == "https://one.example/v1"


def cells(teacher, methods="sft,seqkd,plad,dpo,kd,uld,gkd,minillm"):
    run = spec.build(tiny.registry(), task="demo", methods=methods, teacher=teacher)
    return {cell.row: cell for cell in matrix.cells(run, tiny.registry())}


def test_text_serves_the_methods_that_need_text_and_no_other():
    found = cells("openai[model=m]")
    skipped = {row for row, cell in found.items() if cell.skip}
    assert skipped == {"kd", "uld", "gkd", "minillm"}
    assert found["kd"].skip == "kd needs the teacher's logits; openai[model=m] provides text"
    asked = {s.name for cell in found.values() for s in cell.stages if s.operation == "ask"}
    assert asked == {"teach", "generate"}
    assert found["teacher"].responses.operation == "ask"
    assert found["teacher"].checkpoint is found["teacher"].responses
    for row, cell in found.items():
        for stage in cell.stages:
            assert stage.inputs.keys() >= {"model"} or stage.name not in {"sft-init", "distill"}, row


def test_a_model_that_runs_here_is_keyed_as_ever():
    generate = cells("small", "seqkd")["teacher"].responses
    assert generate.operation == "generate"
    assert set(generate.spec) == {"split", "max_new_tokens", "precision", "threads", "backend"}


# -------------------------------------------------------------------------------------------------------- the stage


def question(number):
    return f"thing[lamp {number}] colour[red]"


@pytest.fixture
def data(tmp_path):
    prompts = [Prompt(id=f"id{i}", split="train", prompt=question(i), references=("x",), meta={}) for i in range(6)]
    write_prompts(tmp_path, prompts, ["train"])
    return Artifact(tmp_path, {"key": "k", "document": {"stage": "data"}})


def asked(tmp_path, data, name, **params):
    context = tiny.context(
        tmp_path,
        spec={"split": "train", "max_new_tokens": 8},
        inputs={"data": data},
        job={"teacher": tiny.named("teacher", name, **params)},
    )
    ask.run(context)
    rows = {row["id"]: [r["text"] for r in row["responses"]] for row in read_lines(context.out / "responses.jsonl")}
    return rows, context


def test_openai_writes_a_response_for_every_prompt_and_counts(tmp_path, data, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    faults = {question(2): "empty", question(3): "length", question(4): "no usage"}
    with endpoint(reply=lambda p: f" {p.upper()}\n", faults=lambda p, n: faults.get(p)) as server:
        rows, context = asked(
            tmp_path, data, "openai", model="m", base_url=server.url, instruction="Say.", price_in=1.0, price_out=10.0
        )
    assert rows == {f"id{i}": ["" if i == 2 else question(i).upper()] for i in range(6)}
    assert context.counts == {"empty": 1, "truncated": 1, "without_usage": 1}
    assert context.notes == {"empty": ["id2"]}
    assert context.cost == {"tokens_prompted": 50, "tokens_generated": 25, "money": pytest.approx(300e-6)}
    body = server.bodies[0]
    assert body["messages"][0] == {"role": "system", "content": "Say."}
    assert (body["max_tokens"], body["temperature"], "seed" in body) == (8, 0.0, False)


def test_openai_asks_reasoning_models_as_they_want_it(tmp_path, data):
    with endpoint() as server:
        asked(tmp_path, data, "openai", model="m", base_url=server.url, thinking=100)
    assert set(server.bodies[0]) == {"path", "model", "messages", "max_completion_tokens"}
    assert server.bodies[0]["max_completion_tokens"] == 108


def test_a_teacher_that_says_nothing_at_all_fails(tmp_path, data):
    with (
        endpoint(reply=lambda p: "") as server,
        pytest.raises(StageError, match=r"every response of teacher .* is empty"),
    ):
        asked(tmp_path, data, "openai", model="m", base_url=server.url)


def lines(path, rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_recorded_matches_by_id_or_by_the_text_of_the_prompt(tmp_path, data):
    file = lines(
        tmp_path / "said.jsonl",
        [
            {"id": "id0", "response": "zero"},
            {"prompt": " thing[lamp 1]\n colour[red] ", "responses": ["one", "uno"]},
            {"id": 17, "prompt": question(2), "response": "two"},
            {"id": "mine-3", "prompt": question(3), "response": ""},
            {"id": "id4", "response": "four"},
            {"id": "id5", "response": "five"},
            {"id": "id5", "response": "cinq"},
            {"id": "unknown", "response": "nobody asked"},
            {"prompt": "COLOUR[red] thing[lamp 1]", "response": "another prompt with the same words"},
        ],
    )
    rows, context = asked(tmp_path, data, "recorded", path=str(file))
    assert rows == {
        "id0": ["zero"],
        "id1": ["one", "uno"],
        "id2": ["two"],
        "id3": [""],
        "id4": ["four"],
        "id5": ["five", "cinq"],
    }
    account = {"rows": 9, "rows_read": 9, "rows_of_other_prompts": 2}
    assert context.counts == {**account, "empty": 1, "truncated": 0}
    assert context.notes == {"empty": ["id3"]}


def test_recorded_reads_parquet_and_other_fields(tmp_path, data):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"question": [question(i) for i in range(6)], "answer": [[f"a{i}", f"b{i}"] for i in range(6)]}
    pq.write_table(pa.table(table), tmp_path / "said.parquet")
    rows, _ = asked(
        tmp_path, data, "recorded", path=str(tmp_path / "said.parquet"), prompt="question", response="answer"
    )
    assert rows == {f"id{i}": [f"a{i}", f"b{i}"] for i in range(6)}


def test_recorded_names_bad_rows_and_missing_prompts(tmp_path, data):
    good = [{"id": f"id{i}", "response": "x"} for i in range(5)]
    bad = ['{"id": "id5", "response"', {"id": "id5"}, {"response": "x"}, {"id": "id5", "response": 7}, "[1]"]
    file = lines(tmp_path / "said.jsonl", [*good, *bad])
    with pytest.raises(StageError) as caught:
        asked(tmp_path, data, "recorded", path=str(file))
    assert "teacher recorded: 5 of 10 rows cannot be used: said.jsonl, line 6: not JSON" in caught.value.message
    assert "said.jsonl, line 7: no field response; said.jsonl, line 8: no field prompt" in caught.value.message
    assert "and 2 more" in caught.value.message
    elsewhere = [{"id": f"other{i}", "response": "x"} for i in range(100)]
    lines(file, [*bad, *elsewhere, *good])
    with pytest.raises(StageError) as caught:
        asked(tmp_path, data, "recorded", path=str(file))
    assert "missing for 1 of the 6 prompts of the train split: 'thing[lamp 5] colour[red]'" in caught.value.message
    assert "plad-bench export prompts" in caught.value.remedy
    assert "; 5 rows cannot be used, the first is said.jsonl, line 1: not JSON" in caught.value.message
    lines(file, [*bad, *elsewhere, *good, {"id": "id5", "response": "x"}])
    _, context = asked(tmp_path, data, "recorded", path=str(file))
    assert context.counts["bad_rows"] == len(context.notes["bad_rows"]) == 5
    assert context.counts["rows_of_other_prompts"] == 100


def test_a_recorded_teacher_may_go_without_some_responses(tmp_path, data):
    file = lines(tmp_path / "said.jsonl", [{"id": f"id{i}", "response": "x"} for i in range(5)])
    for more in ({}, {"missing": "skip"}, {"missing": "skip", "max_missing": 0.1}):
        with pytest.raises(StageError, match="missing for 1 of the 6 prompts"):
            asked(tmp_path, data, "recorded", path=str(file), **more)
    rows, context = asked(tmp_path, data, "recorded", path=str(file), missing="skip", max_missing=0.2)
    assert rows == {**{f"id{i}": ["x"] for i in range(5)}, "id5": []}
    assert context.counts["without_response"] == 1
    assert context.notes["without_response"] == ["id5"]
    plain, skipping = one(f"recorded[path={file}]"), one(f"recorded[path={file},missing=skip,max_missing=0.5]")
    assert plain.public() == skipping.public(), "which responses there are says the file"
    assert plain.label == skipping.label


def test_no_other_teacher_goes_without_a_response(tmp_path, data, monkeypatch):
    from plad_bench_plugins.teachers import recorded

    monkeypatch.setattr(recorded, "_lacking", None)
    monkeypatch.setattr(Account, "close", lambda *_: None)
    file = lines(tmp_path / "said.jsonl", [{"id": f"id{i}", "response": "x"} for i in range(6)])
    context = tiny.context(
        tmp_path,
        spec={"split": "train", "max_new_tokens": 8},
        inputs={"data": data},
        job={"teacher": tiny.named("teacher", "recorded", path=str(file))},
    )
    monkeypatch.setattr(ask, "resolve", lambda _: lambda requests, params, context: [()] + [("x",)] * 5)
    with pytest.raises(StageError, match="has no response to 1 of 6 prompts of the split train"):
        ask.run(context)


def test_a_recorded_file_is_known_by_its_content(tmp_path):
    file = lines(tmp_path / "said.jsonl", [{"id": "a", "response": "x"}])
    first = one(f"recorded[path={file}]")
    before = first.public()
    assert str(tmp_path) not in json.dumps(before) + first.label
    lines(file, [{"id": "a", "response": "y"}])
    assert one(f"recorded[path={file}]").public() != before


@pytest.mark.parametrize("given", ["recorded[path=nowhere.jsonl]", "openai[model=m]"])
def test_what_is_missing_is_said_before_any_work(given, tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    from plad_bench.plan import requirements

    found = cells(given, "seqkd").values()
    with pytest.raises(MissingError, match=r"nowhere\.jsonl|OPENAI_API_KEY is not set"):
        requirements.check(found)
    requirements.check(found, made=lambda key: True)


def test_parameters_that_are_needed_are_asked_for():
    for text in ("openai", "recorded"):
        with pytest.raises(UsageError, match=r"name the model|give path="):
            one(text)
    assert issubclass(tiny.registry().get("teacher", "openai").params, Params)


# ------------------------------------------------------------------------------------------------------- whole runs

SMALL = ("--steps", "2", "--sft-steps", "2", "--metrics", "rouge-l", "--max-new-tokens", "4")


def teacher(server, **more):
    values = {"model": "m", "base_url": server.url, "price_in": 100, "price_out": 1000, **more}
    return ("--teacher", f"openai[{','.join(f'{k}={v}' for k, v in values.items())}]")


@pytest.mark.slow
def test_a_run_with_a_budget_stops_in_time_goes_on_and_leaves_no_trace_of_key_or_host(tmp_path):
    dear = {"price_in": 1000, "price_out": 1000}  # an answer costs 0.015
    with endpoint() as server:
        given = (*RUN, *SMALL, *teacher(server, **dear), "--methods", "seqkd,kd")
        planned = plad_bench(*RUN[:2], "plan", *given[3:], "--json", cwd=tmp_path)
        assert planned.returncode == 0, planned.stderr
        estimate = {e["stage"]: e for e in json.loads(planned.stdout)["requests"]}
        assert set(estimate) == {"teach", "generate"}
        assert not server.asked, "a plan asks nothing"
        first = plad_bench(*given, "--max-cost", "0.5", cwd=tmp_path, OPENAI_API_KEY=KEY)
        assert first.returncode == 6, first.stderr
        assert "exceeded --max-cost 0.5" in first.stderr
        assert "To resume: plad-bench" in first.stderr
        assert 0.3 < 0.015 * sum(server.answered.values()) <= 0.5
        assert "seqkd" not in records(tmp_path)
        again = json.loads(plad_bench(*RUN[:2], "plan", *given[3:], "--json", cwd=tmp_path).stdout)["requests"]
        whole = sum(estimate[name]["requests"] for name in estimate.keys() - {e["stage"] for e in again})
        assert sum(e["answered"] for e in again) + whole == sum(server.answered.values())
        second = plad_bench(*given, "--max-cost", "100", "--json", cwd=tmp_path, OPENAI_API_KEY=KEY)
        assert second.returncode == 0, second.stderr
        assert json.loads(second.stdout)["spent"] > 0
        third = plad_bench(*given[:-1], "none", "--rerun", "all", cwd=tmp_path)
        assert third.returncode == 0, third.stderr
    prompts = sum(e["requests"] for e in estimate.values())
    assert len(server.asked) == prompts
    assert set(server.asked.values()) == {1}, "nothing is asked twice, not even with --rerun all"
    found = records(tmp_path)
    assert {name: r.status for name, r in found.items()} == {
        **dict.fromkeys(["teacher", "student", "sft-init", "seqkd"], "done"),
        "kd": "skipped",
    }
    assert found["kd"].reason.startswith("kd needs the teacher's logits")
    assert found["seqkd"].cost["teacher_money"] == pytest.approx(0.015 * estimate["teach"]["requests"])
    assert found["seqkd"].cost["teacher_tokens"] == 5 * estimate["teach"]["requests"]
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert KEY.encode() not in content, path
            assert b"127.0.0.1" not in content or path.suffix == ".job", path
    removed = plad_bench("cache", "prune", "--days", "0", "--boards-dir", "none", cwd=tmp_path)
    assert removed.returncode == 0, removed.stderr
    assert len(list((tmp_path / "store").rglob("responses.jsonl"))) == 2, "what was bought is never pruned"


def test_a_budget_without_prices_is_refused(tmp_path):
    given = (*RUN, *SMALL, "--teacher", "openai[model=m,base_url=http://127.0.0.1:1/v1]", "--methods", "seqkd")
    made = plad_bench(*given, "--max-cost", "1", cwd=tmp_path)
    assert made.returncode == 2
    assert "give price_in" in made.stderr.lower()


@pytest.mark.slow
def test_killed_in_the_middle_nothing_paid_for_is_lost(tmp_path):
    enough, go_on = threading.Event(), threading.Event()

    def reply(prompt):
        if len(server.answered) >= 10 and not go_on.is_set():
            enough.set()
            go_on.wait(60)
        return f"about {prompt}"

    with endpoint(reply=reply) as server:
        given = (*RUN, *SMALL, *teacher(server, concurrency=4), "--methods", "none", "--workers", "1")
        driver = subprocess.Popen(
            [sys.executable, "-m", "plad_bench", *given],
            cwd=tmp_path,
            env={**os.environ, "PLAD_BENCH_STORE": str(tmp_path / "store"), "OPENAI_API_KEY": KEY},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        assert enough.wait(60)
        os.kill(driver.pid, signal.SIGKILL)
        driver.wait()
        before = dict(server.answered)
        go_on.set()
        made = plad_bench(*given, cwd=tmp_path, OPENAI_API_KEY=KEY)
        assert made.returncode == 0, made.stderr
    twice = {prompt for prompt, n in server.asked.items() if n > 1}
    assert len(before) >= 10
    assert len(twice) <= 4, "only what was under way at the kill is asked again"
    assert records(tmp_path)["teacher"].status == "done"
