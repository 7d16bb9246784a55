"""Published data sets and the user's own: what a row becomes, where rows come from, and what becomes of bad ones."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import hubserver
import pytest

from plad_bench import BadRow, Example, MissingError, Origin, Scored, Source, UsageError
from plad_bench.contract.registry import Registry
from plad_bench.plan.chosen import choose
from plad_bench_plugins.metrics import final_answer
from plad_bench_plugins.tasks import _rows, dialogsum, gsm8k, hh, tldr

NAMES = ("tldr", "hh", "gsm8k", "dialogsum", "jsonl", "hub")


@pytest.fixture(scope="module")
def registry():
    return Registry.load()


def load(registry, selector):
    (task,) = choose(registry, "task", selector)
    task.component.require(task.params)
    return [item for item in task.component.load(task.params) if not isinstance(item, Source)]


def rows(path, *values):
    path.write_text("".join(json.dumps(value) + "\n" for value in values), encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------- what a row becomes


def test_tldr_reads_posts_and_ready_made_prompts_alike(registry, tmp_path):
    post = {
        "id": "t3_x",
        "subreddit": "cats",
        "title": "He sits",
        "post": "My cat sits on my keys.",
        "summary": " Cat.",
    }
    prompt = "SUBREDDIT: r/cats\n\nTITLE: He sits\n\nPOST: My cat sits on my keys.\n\nTL;DR:"
    renamed = {"subreddit": "cats", "title": "He sits", "instruction": post["post"], "gold_response": "Cat."}
    mirrors = [{"prompt": prompt, "completion": " Cat."}, {"prompt": prompt, "label": "Cat."}]
    rows(tmp_path / "posts.jsonl", post, renamed, *mirrors)
    assert load(registry, f"tldr[path={tmp_path}]") == [Example(prompt=prompt, references=("Cat.",))] * 4


def test_hh_takes_the_preferred_reply_to_the_whole_dialogue(registry, tmp_path):
    turns = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: A joke?\n\nAssistant:"
    pair = {"chosen": f"{turns} Why not.", "rejected": f"{turns} No."}
    single = {"instruction": "A joke?", "gold_response": "Why not."}
    bad = {"chosen": "Why not."}, {"chosen": "\n\nAssistant: Hi."}, {"chosen": turns}, {"rejected": turns}
    first, second, *others = load(registry, f"hh[path={rows(tmp_path / 'x.jsonl', pair, single, *bad)}]")
    assert first == Example(prompt=turns.strip(), references=("Why not.",))
    assert second == Example(prompt="Human: A joke?\n\nAssistant:", references=("Why not.",))
    assert [row.where for row in others] == [f"x.jsonl, line {n}" for n in (3, 4, 5, 6)]
    assert others[2].reason == "the last turn of field chosen is empty"
    assert others[3].reason == "no field chosen"


def test_gsm8k_leaves_the_calculator_out_and_can_keep_it(registry, tmp_path):
    path = rows(
        tmp_path / "x.jsonl",
        {"question": "Two and two?", "answer": "2+2=<<2+2=4>>4\n#### 4"},
        {"question": "Three?", "answer": "3"},
    )
    example, bad = load(registry, f"gsm8k[path={path}]")
    assert example == Example(prompt="Two and two?", references=("2+2=4\n#### 4",))
    assert bad == BadRow(where="x.jsonl, line 2", reason="field answer has no line #### with the result")
    kept, _ = load(registry, f"gsm8k[path={path},annotations=true]")
    assert kept.references == ("2+2=<<2+2=4>>4\n#### 4",)


def test_dialogsum_has_one_summary_or_three(registry, tmp_path):
    (tmp_path / "a.csv").write_text("id,dialogue,summary,topic\nx_0,#Person1#: Hi.,They meet.,talk\n")
    rows(tmp_path / "b.jsonl", {"dialogue": "#Person1#: Bye.", "summary1": "a", "summary2": "b", "summary3": "c"})
    one, three = load(registry, f"dialogsum[path={tmp_path}]")
    assert one == Example(prompt="#Person1#: Hi.\n\nSummary:", references=("They meet.",))
    assert three.references == ("a", "b", "c")


def test_your_own_rows_name_their_fields_and_may_have_several_references(registry, tmp_path):
    path = rows(
        tmp_path / "mine.json", {"q": "One?", "a": "1"}, {"q": "Two?", "a": ["2", "two"]}, {"q": "No?", "a": []}
    )
    one, two, bad = load(registry, f"jsonl[path={path},prompt=q,response=a]")
    assert (one, two.references) == (Example(prompt="One?", references=("1",)), ("2", "two"))
    assert bad.reason == "field a is an empty list"


@pytest.mark.parametrize("selector", ["jsonl", "hub", "jsonl[prompt=q]", "hub[id=../x]"])
def test_your_own_data_must_be_named(registry, selector):
    with pytest.raises(UsageError, match=r"give path=|give id=ORG/NAME|pattern"):
        choose(registry, "task", selector)


def test_the_key_sees_what_a_file_holds_and_not_where_it_is(registry, tmp_path):
    def public(path):
        (task,) = choose(registry, "task", f"jsonl[path={path}]")
        return task.public()

    row = {"prompt": "a", "response": "b"}
    (tmp_path / "elsewhere").mkdir()
    here, there = rows(tmp_path / "x.jsonl", row), rows(tmp_path / "elsewhere" / "x.jsonl", row)
    assert public(here) == public(there)
    assert str(tmp_path) not in json.dumps(public(here))
    assert public(here) != public(rows(tmp_path / "x2.jsonl", row, row))


@pytest.mark.parametrize("name", NAMES)
def test_the_record_says_what_may_be_done_with_the_text(registry, name):
    task = registry.get("task", name)
    assert task.revision is None, "no hub resolved one"
    assert task.redistributable == (task.licence == "MIT")
    assert choose(registry, "metric", ",".join(task.metrics))
    assert choose(registry, "student", task.student)
    assert registry.get("metric", task.metrics[0].split("[")[0]).better, "the first one ranks"


# ----------------------------------------------------------------------------------------------------------- bad rows

BAD = {
    b'{"prompt": "a", "response": ': "not JSON: Expecting value at column 28",
    b'["a", "b"]': "not a JSON object",
    b'{"prompt": "a"}': "no field response",
    b'{"prompt": null, "response": "b"}': "no field prompt",
    b'{"prompt": " \\n", "response": "b"}': "field prompt is empty",
    b'{"prompt": "a", "response": ""}': "field response is empty",
    b'{"prompt": 3, "response": "b"}': "field prompt is of type int, not text",
    b'{"prompt": "a", "response": {"x": 1}}': "field response is of type dict, not text",
    b'{"prompt": "a\xff", "response": "b"}': "not UTF-8 at byte 14",
    b'{"prompt": "a\\ud83d", "response": "b"}': "field prompt is not UTF-8",
    b"[" * 100_000: "not JSON: nested too deep, or a number too long",
}


@pytest.mark.parametrize(("line", "reason"), BAD.items(), ids=BAD.values())
def test_a_bad_line_is_named_with_its_number_and_costs_no_other(registry, tmp_path, line, reason):
    good = b'{"prompt": "c", "response": "d"}'
    (tmp_path / "x.jsonl").write_bytes(b"\xef\xbb\xbf" + b"\n".join([good, b"", line, good]))
    found = load(registry, f"jsonl[path={tmp_path}]")
    assert found == [
        Example(prompt="c", references=("d",)),
        BadRow(where="x.jsonl, line 3", reason=reason),
        Example(prompt="c", references=("d",)),
    ]


def test_csv_rows_are_read_one_by_one(registry, tmp_path):
    text = b'prompt,response\n"two\nlines",b\n\xff,b\na,b,c\na\nlast,"x, y"\n'
    (tmp_path / "x.csv").write_bytes(text)
    (tmp_path / "y.tsv").write_text("prompt\tresponse\na, b\tc\n")
    first, *bad, last, tabs = load(registry, f"jsonl[path={tmp_path}]")
    assert (first.prompt, last.references, tabs.prompt) == ("two\nlines", ("x, y",), "a, b")
    assert [(row.where, row.reason) for row in bad] == [
        ("x.csv, line 4", "field prompt is not UTF-8"),
        ("x.csv, line 5", "more columns than the header"),
        ("x.csv, line 6", "no field response"),
    ]


def test_a_list_in_json_and_parquet_are_read_too(registry, tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (tmp_path / "a.json").write_text('\n[{"prompt": "a", "response": "b"}, 7]')
    table = pa.Table.from_pylist([{"prompt": "c", "response": "d"}, {"prompt": None, "response": "d"}])
    pq.write_table(table, tmp_path / "b.parquet")
    first, seven, second, nothing = load(registry, f"jsonl[path={tmp_path}]")
    assert (first.prompt, second.prompt) == ("a", "c")
    assert seven == BadRow(where="a.json, item 2", reason="not a JSON object")
    assert nothing == BadRow(where="b.parquet, row 2", reason="no field prompt")


UTF_16 = "prompt,response\na,b\n".encode("utf-16")


@pytest.mark.parametrize(("name", "content"), [("x.json", b"[1,"), ("x.parquet", b"PAR1"), ("x.csv", UTF_16)])
def test_a_file_that_cannot_be_read_at_all_is_named(registry, tmp_path, name, content):
    from plad_bench import StageError

    (tmp_path / name).write_bytes(content)
    with pytest.raises(StageError, match=f"{name} is not") as caught:
        load(registry, f"jsonl[path={tmp_path}]")
    assert caught.value.remedy


# ---------------------------------------------------------------------------------------------------- where they are


@pytest.mark.parametrize("name", ["tldr", "hh", "gsm8k", "dialogsum", "e2e", "jsonl"])
def test_absent_files_are_found_before_any_work(registry, tmp_path, name):
    (tmp_path / "README.txt").write_text("nothing here")
    for path in (tmp_path, tmp_path / "nowhere", tmp_path / "README.txt"):
        with pytest.raises(
            MissingError, match=r"contains no file of a supported kind|nowhere does not exist"
        ) as caught:
            load(registry, f"{name}[path={path}]")
        assert f"{name}[path=" in caught.value.remedy


HUB = _rows.Hub(id="someone/data", config="main", folder="part", split="train")


def test_without_datasets_the_hub_is_a_missing_prerequisite(monkeypatch):
    monkeypatch.setattr(_rows, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="needs the package `datasets`") as caught:
        _rows.require("hh", None, HUB)
    assert "pip install 'plad-bench[hub]'" in caught.value.remedy


def test_an_id_that_is_a_directory_here_is_refused(tmp_path, monkeypatch):
    (tmp_path / "someone" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    for read in (lambda: _rows.require("hub", None, HUB), lambda: list(_rows.from_hub("hub", HUB))):
        with pytest.raises(UsageError, match="also a local directory"):
            read()


def test_a_hub_that_cannot_be_reached_is_a_missing_prerequisite(monkeypatch):
    datasets = pytest.importorskip("datasets")

    def unreachable(*args, **kwargs):
        raise ConnectionError("no route\nat all")

    monkeypatch.setattr(_rows, "_resolved", lambda task, hub: None)
    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(MissingError, match=r"cannot load someone/data from the hub: ConnectionError: no route"):
        list(_rows.from_hub("hub", HUB))


@pytest.mark.parametrize("whole", [True, False])
def test_rows_of_the_hub_come_with_the_commit_that_it_resolved(monkeypatch, whole):
    datasets = pytest.importorskip("datasets")
    asked = []

    def load_dataset(*args, **kwargs):
        asked.append((args, kwargs))
        return {"train": [{"a": 1}], "test": [{"a": 2}]} if whole else [{"a": 1}, {"a": 2}]

    monkeypatch.setattr(_rows, "_resolved", lambda task, hub: "c0ffee")
    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    origin, *found = _rows.from_hub("hub", HUB)
    sources = [item for item in found if isinstance(item, Source)]
    assert sum(source.rows for source in sources) == 2
    found = [item for item in found if item not in sources]
    assert origin == Origin(id="someone/data", revision="c0ffee")
    assert [row.values for row in found] == [{"a": 1}, {"a": 2}]
    assert found[1].where == ("someone/data, test, row 0" if whole else "someone/data, train, row 1")
    assert asked == [(("someone/data", "main"), {"data_dir": "part", "revision": "c0ffee", "split": "train"})]


def test_published_sets_are_where_they_are_published():
    assert (hh.HUB.id, hh.HUB.folder) == ("Anthropic/hh-rlhf", "helpful-base")
    assert (gsm8k.HUB.id, gsm8k.HUB.config) == ("openai/gsm8k", "main")
    assert dialogsum.HUB.id == "knkarthick/dialogsum"
    assert tldr.TLDRParams().id == "trl-lib/tldr"


# ------------------------------------------------------------------------------------------------------- final-answer


@pytest.mark.parametrize(
    ("response", "value"),
    [
        ("2 + 2 = 4\n#### 4", 1),
        ("So there are 1,004.", 0),
        ("It is 4.0 in all.", 1),
        ("#### 4 apples, of 9", 1),
        ("First 4, then 5.", 0),
        ("#### four", 0),
        ("", 0),
        ("-4", 0),
        ("#### 5\n#### 4", 0),
        ("#### 4\n#### 5", 1),
    ],
)
def test_the_final_number_decides(response, value):
    example = Scored(id="0", prompt="p", references=("2+2=4\n#### 4",), meta={}, response=response)
    assert final_answer.RECORDS[0].score([example], None, None) == [value]


def test_numbers_are_compared_as_numbers_and_absent_ones_not_at_all():
    def one(response, *references):
        return final_answer.score(
            [Scored(id="0", prompt="", references=references, meta={}, response=response)], None, None
        )

    assert one("$1,250.50", "#### 1250.5") == [1]
    assert one("-3", "#### -3", "#### 8") == [1]
    assert one("3", "no number")[0] != one("3", "no number")[0], "NaN"


# ------------------------------------------------------------------------------ the real client, a stand-in for the hub

CLIENT = """
import json, sys
from plad_bench import MissingError, Source
from plad_bench.contract.registry import Registry
from plad_bench.plan import spec
from plad_bench.plan.chosen import choose

for selector in sys.argv[1:]:
    (task,) = choose(Registry.load(), "task", selector)
    try:
        task.component.require(task.params)
        print(json.dumps([vars(i) for i in task.component.load(task.params) if not isinstance(i, Source)], default=str))
    except MissingError as error:
        print(json.dumps([error.message, error.remedy]))
"""


@pytest.mark.slow
def test_data_sets_come_through_the_real_client(tmp_path):
    pytest.importorskip("datasets")
    place = tmp_path / "set"
    place.mkdir()
    rows(place / "data.jsonl", {"q": "One?", "a": "1"}, {"q": "", "a": "2"})
    environment = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path / "home")}
    with hubserver.serving() as hub:
        repository = hub.publish("org/set", place, tags={"main", "v1"})
        hub.publish("org/gated", place, gated=True)
        hub.publish("org/private", place, private=True)
        asked = ("org/set", "org/set,revision=v1,split=train", "org/set,revision=v2", "org/gated", "org/private")
        done = subprocess.run(
            [sys.executable, "-c", CLIENT, *(f"hub[id={one},prompt=q,response=a]" for one in asked)],
            env={**environment, "HF_ENDPOINT": hub.url},
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    whole, tagged, *refused = map(json.loads, done.stdout.splitlines())
    origin, example, bad = whole
    assert origin == {"id": "org/set", "revision": repository.sha}
    assert (example["prompt"], example["references"]) == ("One?", ["1"])
    assert bad == {"where": "org/set, train, row 1", "reason": "field q is empty", "hint": ""}
    assert tagged == whole
    assert refused[0] == ["task hub: data set org/set has no revision v2", "Check the revision."]
    assert "gated" in refused[1][0]
    assert refused[2][0] == "task hub: data set org/private is not on the hub, or is private"


def test_a_gated_data_set_is_told_before_any_work(monkeypatch, tmp_path):
    pytest.importorskip("datasets")
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)
    rows(tmp_path / "data.jsonl", {"prompt": "One?", "response": "1"})
    with hubserver.serving() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        open_ = hub.publish("someone/data", tmp_path)
        _rows.require("hub", None, HUB)
        open_.gated = True
        with pytest.raises(MissingError, match="task hub: data set someone/data is gated") as caught:
            _rows.require("hub", None, HUB)
        assert "Request access" in caught.value.remedy


def test_a_hub_that_is_down_is_told_before_any_work(monkeypatch, tmp_path):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda seconds: None)
    with hubserver.serving() as hub:
        hub.down = True
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        with pytest.raises(MissingError, match="task hh: data set Anthropic/hh-rlhf: the hub answered 503"):
            _rows.require("hh", None, hh.HUB)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(MissingError, match="the hub cannot be reached") as caught:
        _rows.require("hub", None, HUB)
    assert "`hf download someone/data --repo-type dataset`" in caught.value.remedy
    assert "jsonl[path=PATH]" in caught.value.remedy
