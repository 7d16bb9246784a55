"""The user's own rows: chats, instructions, lists, templates, splits of their own, and what a wrong name is told."""

from __future__ import annotations

import json

import pytest

from plad_bench import BadRow, Example, Source, UsageError
from plad_bench.contract.registry import Registry
from plad_bench.plan.chosen import choose
from plad_bench_plugins.tasks import _rows
from plad_bench_plugins.tasks._row_shapes import RowReader, fields


@pytest.fixture(scope="module")
def registry():
    return Registry.load()


@pytest.fixture
def load(registry, tmp_path):
    """Rows, and more parameters -> what the task jsonl yields of them."""

    def loaded(*rows, **more):
        (tmp_path / "x.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        given = ",".join(f"{name}={value}" for name, value in {"path": tmp_path / "x.jsonl", **more}.items())
        (task,) = choose(registry, "task", f"jsonl[{given}]")
        return list(task.component.load(task.params))

    return loaded


def turns(*said, role="role", text="content", names=("user", "assistant")):
    return [{role: names[i % 2], text: one} for i, one in enumerate(said)]


def test_a_chat_of_one_question_is_the_question(load):
    system = {"role": "system", "content": "Be brief."}
    first, second, third, source = load(
        {"messages": turns("Hi?", "Hello.")},
        {"messages": [system, *turns("Hi?", "Hello.")]},
        {"conversations": turns("Hi?", "Hello.", role="from", text="value", names=("human", "gpt"))},
    )
    assert first == third == Example(prompt="Hi?", references=("Hello.",))
    assert second == Example(prompt="Be brief.\n\nHi?", references=("Hello.",))
    assert source.remark == "chats in the field messages (2 rows); chats in the field conversations (1 row)"


def test_of_a_longer_chat_every_turn_is_named(load):
    example, _ = load({"messages": turns("One?", "1", "And two?", [{"type": "text", "text": "2"}])})
    assert example == Example(prompt="User: One?\n\nAssistant: 1\n\nUser: And two?\n\nAssistant:", references=("2",))


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ("Hi", "is not a list of messages"),
        ([], "is not a list of messages"),
        (turns("Hi?"), "does not end with an assistant message"),
        (turns("Hi?", ""), "field messages is empty"),
        (turns("", "Hello."), "field messages is empty"),
        ([{"role": "tool", "content": "x"}], "a message whose role is not system, user or assistant"),
        (["Hi"], "a message whose role is not system, user or assistant"),
        (turns("Hi?", None), "a message without text"),
        (turns("Hi?", [{"type": "image"}]), "a message with content that is not text"),
        (turns("Hi?", "\ud83d"), "field messages is not UTF-8"),
        ([{"role": "assistant", "content": "Hi"}], "does not end with a user message"),
    ],
)
def test_a_chat_that_is_none_is_a_bad_row(load, messages, reason):
    bad, source = load({"messages": messages})
    assert isinstance(bad, BadRow)
    assert reason in bad.reason
    assert source.rows == 1


def test_chats_without_an_answer_are_prompts_alone(load):
    (open_, closed, _) = load({"messages": turns("Hi?")}, {"messages": turns("Hi?", "Hello.")}, response="")
    assert open_ == closed == Example(prompt="Hi?", references=())


def test_instruction_and_input_are_a_prompt(load):
    first, second, third, bad, _ = load(
        {"instruction": "Add.", "input": "1, 2", "output": "3"},
        {"instruction": "Sing.", "input": "", "output": "la"},
        {"instruction": "Sing.", "response": "la"},
        {"instruction": "Sing."},
    )
    assert first == Example(prompt="Add.\n\n1, 2", references=("3",))
    assert second == third == Example(prompt="Sing.", references=("la",))
    assert (bad.reason, bad.hint[:31]) == ("no field response", "it has the fields 'instruction'")


def test_fields_may_hold_chats_and_lists(load):
    conversational, sentences, several, bad, source = load(
        {"prompt": turns("Q?"), "response": [{"role": "assistant", "content": "A."}]},
        {"prompt": ["One. ", "Two."], "response": "x"},
        {"prompt": "One.", "response": ["x", "y"]},
        {"prompt": ["One.", 2], "response": "x"},
    )
    assert conversational == Example(prompt="Q?", references=("A.",))
    assert sentences == Example(prompt="One. Two.", references=("x",))
    assert several == Example(prompt="One.", references=("x", "y"))
    assert bad.reason == "field prompt is a list, but not of strings"
    assert "lists of texts in the field prompt, joined with spaces (1 row)" in source.remark


def test_a_named_prompt_is_taken_and_nothing_else(load):
    bad, _ = load({"messages": turns("Hi?", "Hello."), "q": None, "response": "x"}, prompt="q")
    assert bad.reason == "no field q"


# ----------------------------------------------------------------------------------------------------------- templates


def test_a_template_makes_prompts_of_fields(load):
    row = {"source": ["A.", "B."], "title": "T", "note": "", "target": ["x", "y"]}
    example, _ = load(row, template=r"'{title}: Summarise:\n{source} {{}} {note}'", response="target")
    assert example == Example(prompt="T: Summarise:\nA. B. {}", references=("x", "y"))
    absent, _ = load({"source": "A.", "target": "x"}, template="'{source} {note}'", response="target")
    assert absent.reason == "no field note"
    blank, _ = load({"source": " ", "target": "x"}, template="'About {source}'", response="target")
    assert blank.reason == "the fields source are empty"


@pytest.mark.parametrize("template", ["no field", "{open", "close}", "{}", "{{a}}"])
def test_a_template_that_is_none_is_refused(load, template):
    with pytest.raises(UsageError, match=r"template|field"):
        load({"a": "b"}, template=f"'{template}'")


def test_a_template_and_a_prompt_contradict_each_other(load):
    with pytest.raises(UsageError, match="give prompt= or template=, not both"):
        load({"a": "b"}, template="'{a}'", prompt="a")


def test_the_fields_of_a_template():
    assert fields("{a} {{x}} { b c }") == ["a", "b c"]


# -------------------------------------------------------------------------------------------------------------- splits


def test_a_field_names_the_split(load):
    *examples, bad, _ = load(
        *({"prompt": s, "response": "x", "part": s} for s in ("train", "Dev", "validation", " TEST ")),
        {"prompt": "a", "response": "x", "part": "other"},
        split="part",
    )
    assert [e.split for e in examples] == ["train", "validation", "validation", "test"]
    assert bad.reason == "field part is not train, validation or test"


def test_splits_come_in_files_of_their_own(load, registry, tmp_path):
    (tmp_path / "t.csv").write_text("prompt,response\nc,d\n")
    (tmp_path / "v.csv").write_text("prompt,response\ne,f\n")
    found = load({"prompt": "a", "response": "b"}, test=tmp_path / "t.csv", validation=tmp_path / "v.csv")
    assert [(e.prompt, e.split) for e in found if isinstance(e, Example)] == [
        ("a", None),
        ("e", "validation"),
        ("c", "test"),
    ]
    assert [s.name for s in found if isinstance(s, Source)] == ["x.jsonl", "v.csv", "t.csv"]
    with pytest.raises(UsageError, match="give either split=FIELD, or files"):
        load({}, test=tmp_path / "t.csv", split="part")
    (task,) = choose(registry, "task", f"jsonl[path={tmp_path / 'x.jsonl'},test={tmp_path / 't.csv'}]")
    assert str(tmp_path) not in json.dumps(task.public())
    (plain,) = choose(registry, "task", f"jsonl[path={tmp_path / 'x.jsonl'}]")
    assert set(plain.public()["params"]) == {"prompt", "response", "path"}, "older keys stay"


def test_splits_of_the_hub_are_named(registry, monkeypatch):
    asked = []
    monkeypatch.setattr(_rows, "from_hub", lambda task, hub: asked.append(hub.split) or iter(()))
    (task,) = choose(registry, "task", "hub[id=a/b,split=train,validation=dev,test=test]")
    assert list(task.component.load(task.params)) == []
    assert asked == ["train", "dev", "test"]
    with pytest.raises(UsageError, match="need split=NAME"):
        choose(registry, "task", "hub[id=a/b,test=test]")


# --------------------------------------------------------------------------------------------------------------- hints


@pytest.mark.parametrize(
    ("values", "missing", "hint"),
    [
        ({"question": "a", "answer": "b"}, "prompt", "'question', 'answer'; try prompt=question, response=answer?"),
        ({"prompt": "a", "Response ": "b"}, "response", "'prompt', 'Response '; try response=Response ?"),
        ({"prompt": "a", "respones": "b", "x": None}, "response", "'prompt', 'respones'; try response=respones?"),
        ({"a": 1}, "mr", "it has the fields 'a'"),
        ({}, "prompt", "it has no fields"),
        ({"a": 1}, "", ""),
    ],
)
def test_a_field_that_is_absent_is_told_what_is_there(values, missing, hint):
    assert _rows.hint(values, missing).endswith(hint)


def test_the_hint_is_in_the_bad_row(load):
    bad, _ = load({"question": "a", "answer": "b"})
    assert bad.reason == "no field prompt"
    assert "try prompt=question, response=answer?" in bad.hint
    assert RowReader(prompt="prompt", response="").remarks() == ""
