"""Grouping, splitting and auditing a task's examples, and the files that pass between stages."""

from __future__ import annotations

import pytest
import tiny

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import BadRow, Example, Origin, Response
from plad_bench.execute.stages import data, files, near

EXAMPLES = [Example(prompt=f"{tiny.sentence(i, 4)} {i}", references=(f"answer {i}",)) for i in range(600)]


def test_splits_are_disjoint_and_of_the_size_promised():
    prompts = data.split(EXAMPLES)
    assert len(prompts) == 600
    assert len({p.id for p in prompts}) == 600
    shares = {name: sum(p.split == name for p in prompts) / 6 for name in data.SHARES}
    assert shares == pytest.approx(data.SHARES, abs=4)
    assert data.leaks(prompts) == []


def test_the_split_depends_on_the_prompts_alone():
    forward, backward = data.split(EXAMPLES), data.split(EXAMPLES[::-1])
    assert forward == backward
    some = {p.id: p.split for p in data.split(EXAMPLES[:100])}
    assert some.items() <= {p.id: p.split for p in forward}.items(), "more data moves no prompt to another split"
    assert [p.id for p in forward] == sorted(p.id for p in forward)


@pytest.mark.parametrize(
    "near",
    [
        "name[blue river], price[low]",
        "Name[Blue River], Price[LOW]",
        "  name [ blue   river ] ,\tprice[low]\n",
        "price[low], name[blue river]",
        "name: blue river; price: low!",
        "\uff4eame[blue river], price[low]",
    ],
)
def test_near_duplicates_are_one_prompt_with_all_their_references(near):
    first = Example(prompt="name[blue river], price[low]", references=("one", "two"))
    prompts = data.split([first, Example(prompt=near, references=("two", "three")), *EXAMPLES[:5]])
    assert len(prompts) == 6
    (pooled,) = [p for p in prompts if p.prompt == first.prompt]
    assert pooled.references == ("one", "two", "three")


@pytest.mark.parametrize(
    "other", ["name[blue river], price[high]", "name[blue river]", "price[low], name[blue], near[river]"]
)
def test_other_prompts_stay_apart(other):
    assert data.signature(other) != data.signature("name[blue river], price[low]")


def test_prompts_without_words_are_not_all_the_same():
    assert len(data.split([Example(prompt=p, references=("x",)) for p in ("!?", "?!", "...")])) == 3


def prompt(id_, split, text):
    return files.Prompt(id=id_, split=split, prompt=text, references=("x",), meta={})


def test_a_planted_leak_is_found_and_named():
    clean = [prompt("a", "train", "red house"), prompt("b", "train", "house, red"), prompt("c", "test", "blue house")]
    assert data.leaks(clean) == []
    (found,) = data.leaks([*clean, prompt("d", "test", "House  RED!")])
    assert found.startswith("d (test) is a (train): 'House  RED!'")
    assert len(data.leaks([*clean, prompt("d", "test", "red house"), prompt("e", "validation", "red house")])) == 2


def run(tmp_path, monkeypatch, examples, **more):
    from plad_bench.contract import registry
    from plad_bench.contract.params import Params
    from plad_bench.contract.records import Task

    task = Task(
        name="planted",
        summary="",
        load=lambda params: iter(examples),
        dataset="here",
        licence="CC0-1.0",
        redistributable=True,
        metrics=("length",),
        student="tiny",
        params=Params,
        **more,
    )
    found = registry.Registered(task, registry.Origin("here", "here"))
    monkeypatch.setattr(registry.Registry, "find", lambda self, kind, name: found)
    context = tiny.context(tmp_path, job={"task": tiny.named("task", "planted")})
    data.run(context)
    return context


def test_the_stage_writes_every_prompt_to_its_own_split(tmp_path, monkeypatch):
    context = run(tmp_path, monkeypatch, EXAMPLES)
    artifact = tiny.Artifact(context.out, {})
    rows = {name: files.read_prompts(artifact, name) for name in data.SHARES}
    assert sorted((p for part in rows.values() for p in part), key=lambda p: p.id) == data.split(EXAMPLES)
    for name, part in rows.items():
        assert {p.split for p in part} == {name}
        assert context.counts[f"{name}_prompts"] == len(part)
    assert files.read_prompts(artifact, "train", 7) == rows["train"][:7]


def test_the_stage_stops_at_a_leak(tmp_path, monkeypatch):
    real = data.split

    def leaky(examples):
        prompts = real(examples)
        stolen = next(p for p in prompts if p.split == "test")
        return [*prompts, prompt("planted", "train", stolen.prompt)]

    monkeypatch.setattr(data, "split", leaky)
    with pytest.raises(StageError, match=r"planted: 1 prompts leak between splits: planted \(train\) is \w+ \(test\)"):
        run(tmp_path, monkeypatch, EXAMPLES)


def test_the_stage_refuses_an_empty_split(tmp_path, monkeypatch):
    with pytest.raises(StageError, match=r"split is empty \(2 distinct prompts in all\)"):
        run(tmp_path, monkeypatch, EXAMPLES[:2])


def bad_rows(count):
    return [BadRow(where=f"rows.jsonl, line {i}", reason="no field prompt") for i in range(count)]


def test_bad_rows_are_counted_and_the_first_ones_listed(tmp_path, monkeypatch, capfd):
    context = run(tmp_path, monkeypatch, [*bad_rows(12), *EXAMPLES, Origin(id="someone/data", revision="c0ffee")])
    assert context.counts["bad_rows"] == 12
    listed = [f"rows.jsonl, line {i}: no field prompt" for i in range(data.LISTED)]
    assert context.notes == {"bad_rows": listed, "origin": {"id": "someone/data", "revision": "c0ffee"}}
    log = capfd.readouterr().out
    assert "12 of 612 rows are left out" in log
    assert listed[-1] in log
    assert sum(context.counts[f"{name}_prompts"] for name in data.SHARES) == 600


def test_clean_data_says_nothing_of_bad_rows(tmp_path, monkeypatch):
    context = run(tmp_path, monkeypatch, EXAMPLES)
    parts = {"train_prompts", "validation_prompts", "test_prompts", "references", "rows", "rows_read"}
    assert set(context.counts) == parts
    assert context.counts["rows"] == context.counts["rows_read"] == len(EXAMPLES)
    assert context.notes == {}


def test_too_many_bad_rows_are_other_data(tmp_path, monkeypatch):
    with pytest.raises(
        StageError, match=r"40 of 640 rows cannot be used: rows\.jsonl, line 0: no field prompt; .*; and 37 more"
    ) as caught:
        run(tmp_path, monkeypatch, [*EXAMPLES, *bad_rows(40)])
    assert "fields" in caught.value.remedy


# ---------------------------------------------------------------------------------------------------- near-duplicates

LONG = "the old bridge over the blue river was built by a great tower walker who finds the garden near a house"


def planted(split_of, changed):
    """Examples with a text of the split asked for, and one whose words are changed, in the training split."""
    for i in range(500):
        text = f"{LONG} number {i}"
        other = changed(text)
        (first,), (second,) = (
            data.split([Example(prompt=text, references=("x",))]),
            data.split([Example(prompt=other, references=("y",))]),
        )
        if first.split == split_of and second.split == "train":
            return text, other
    raise AssertionError


@pytest.mark.parametrize("home", ["validation", "test"])
@pytest.mark.parametrize("drop", [False, True])
def test_one_changed_word_is_found_and_named(tmp_path, monkeypatch, home, drop, capfd):
    text, leak = planted(home, lambda text: text.replace("bridge", "viaduct"))
    examples = [*EXAMPLES, Example(prompt=text, references=("x",)), Example(prompt=leak, references=("y",))]
    context = run(tmp_path, monkeypatch, examples, near_duplicates="drop" if drop else "report")
    ids = {p.prompt: p.id for p in data.split(examples)}
    note = context.notes["near_duplicates"]
    assert note == {"prompts": 1, "dropped": drop, "first": [f"{ids[leak]} {ids[text]}"]}
    assert f"{ids[leak]} (train) is " in capfd.readouterr().out
    kept = files.read_prompts(tiny.Artifact(context.out, {}), "train")
    assert (leak in {p.prompt for p in kept}) is not drop
    assert context.counts.get("near_duplicates_dropped", 0) == drop
    evaluated = files.read_prompts(tiny.Artifact(context.out, {}), home)
    assert text in {p.prompt for p in evaluated}, "what is evaluated stays"


def similarity(a, b):
    """Jaccard over word triples, the long way."""
    padded = [["", "", *files.words(text), "", ""] for text in (a, b)]
    sets = [set(zip(w, w[1:], w[2:], strict=False)) for w in padded]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_every_near_duplicate_is_found_and_nothing_else(threshold):
    texts = [tiny.sentence(i % 37, 3 + i % 17) for i in range(300)] + ["red", "red house", "!"]
    prompts = [prompt(f"{i:03}", ("train", "validation", "test")[i % 3], text) for i, text in enumerate(texts)]
    found = {one.prompt.id: one for one in near.near_duplicates(prompts, threshold)}
    for p in prompts:
        later = [o for o in prompts if near.ORDER.index(o.split) > near.ORDER.index(p.split)]
        matches = {o.id: s for o in later if (s := similarity(p.prompt, o.prompt)) >= threshold}
        assert (p.id in found) == bool(matches)
        if matches:
            assert found[p.id].similarity == pytest.approx(matches[found[p.id].other.id])
    assert 0 < len(found) < len(prompts)


def test_short_questions_with_another_word_are_other_questions():
    assert (
        near.near_duplicates(
            [prompt("a", "train", "how do I bake bread"), prompt("b", "test", "how do I bake fish")], 0.5
        )
        == []
    )
    assert near.near_duplicates([prompt("a", "train", "only training")], 0.5) == []


@pytest.mark.parametrize(
    "response",
    [
        Response(text="a “b”\n\u2028c", ids=(1, 2), tokenizer="abc", finished=False),
        Response(text="", ids=(), tokenizer="abc"),
        Response(text="from an API"),
    ],
)
def test_a_response_survives_its_file(tmp_path, response):
    rows = [{"id": "a", "responses": [files.response_row(response)]}]
    files.write_lines(tmp_path / files.RESPONSES, rows)
    artifact = tiny.Artifact(tmp_path, {"document": {"stage": "teach"}})
    assert files.read_responses(artifact, [prompt("a", "train", "x")]) == {"a": (response,)}
    with pytest.raises(StageError, match="1 of 2 prompts have no teach response, among them b"):
        files.read_responses(artifact, [prompt("a", "train", "x"), prompt("b", "train", "y")])
