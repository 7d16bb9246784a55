"""Grouping, splitting and auditing a task's examples, and the files that pass between stages."""

from __future__ import annotations

import collections
import hashlib
import json
import random

import pytest
import tiny

from plad_bench.contract import words
from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import BadRow, Example, Origin, Response
from plad_bench.execute.stages import data, files, near_duplicates

EXAMPLES = [Example(prompt=f"{tiny.sentence(i, 4)} {i}", references=(f"answer {i}",)) for i in range(600)]


SPLITS = [("train", "train", "validation", "test")[i % 4] for i in range(600)]


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


ONE = "name[blue river], price[low]"


@pytest.mark.parametrize(
    ("first", "again"),
    [(ONE, "  name[blue   river],\tprice[low]\n"), ("caf\u00e9 au lait", "cafe\u0301 au  lait"), ("!?", " !?\n")],
)
def test_one_text_is_one_prompt_with_all_its_references(first, again):
    examples = [Example(prompt=first, references=("one", "two")), Example(prompt=again, references=("two", "three"))]
    prompts = data.split([*examples, *EXAMPLES[:5]])
    assert len(prompts) == 6
    (pooled,) = [p for p in prompts if p.prompt == first]
    assert pooled.references == ("one", "two", "three")


SAME_WORDS = {
    "operators": ["3 + 4", "3 - 4", "4 * 3"],
    "order": ["Is Ann taller than Bob?", "Is Bob taller than Ann?"],
    "case and punctuation": [
        ONE,
        "Name[Blue River], Price[LOW]",
        "name: blue river; price: low!",
        "price[low] [blue river]name",
    ],
    "another form of the same letters": [ONE, "\uff4eame[blue river], price[low]"],
}


@pytest.mark.parametrize("case", SAME_WORDS)
def test_prompts_with_the_same_words_share_a_split_and_keep_their_own_references(case):
    texts = SAME_WORDS[case]
    prompts = data.split(Example(prompt=text, references=(f"answer to {text}",)) for text in texts)
    assert {p.prompt: p.references for p in prompts} == {text: (f"answer to {text}",) for text in texts}
    assert len({p.split for p in prompts}) == 1
    assert len({p.id for p in prompts}) == len(texts)
    backwards = data.split(Example(prompt=text, references=(f"answer to {text}",)) for text in texts[::-1])
    assert backwards == prompts


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (ONE, "name[blue river], price[high]"),
        (ONE, "name[blue river]"),
        (ONE, "price[low], name[blue], near[river]"),
        ("\u0915\u093f", "\u0915\u0940"),  # Hindi ki and kii: they differ in a vowel sign
        ("\u0e01\u0e34", "\u0e01\u0e35"),  # Thai
        ("!?", "?!"),
        ("\U0001f389", "\U0001f388"),
    ],
)
def test_other_prompts_stay_apart(one, other):
    assert data.signature(one) != data.signature(other)
    assert len(data.split([Example(prompt=p, references=("x",)) for p in (one, other)])) == 2


def test_what_was_merged_is_counted(tmp_path, monkeypatch):
    more = [Example(prompt=t, references=("x",)) for t in (EXAMPLES[0].prompt, EXAMPLES[1].prompt, "3 + 4", "3 - 4")]
    repeated = Example(prompt=EXAMPLES[2].prompt, references=EXAMPLES[2].references)
    counts = run(tmp_path, monkeypatch, [*EXAMPLES, *more, repeated]).counts
    assert {n: counts[n] for n in ("rows_merged", "references_repeated", "same_words")} == {
        "rows_merged": 3,
        "references_repeated": 1,
        "same_words": 2,
    }
    assert sum(counts[f"{name}_prompts"] for name in data.SHARES) == 602


@pytest.mark.parametrize(
    ("selector", "key"), [("demo", "3f6967f362e407d9e66dcacc8ffedd75d81d2425c15ee37155c3d1c987b5bae3")]
)
def test_data_that_is_what_it_was_keeps_its_key(selector, key):
    """The digest is that of the prompts that version 1 of the data stage made."""
    from plad_bench.plan import matrix, spec, stages
    from plad_bench.plan.chosen import choose
    from plad_bench.plan.stage import OPERATION_VERSION

    (task,) = choose(tiny.registry(), "task", selector)
    prompts = data.split(task.component.load(task.params))
    made = hashlib.sha256()
    for p in prompts:
        made.update(json.dumps([p.id, p.split, p.prompt, p.references, p.meta]).encode())
    assert made.hexdigest() == "518cb99103c17e26a2dd247708d16222d1da0f814553aee833f12002bf53a049"
    (cell, *_) = matrix.cells(spec.build(tiny.registry(), task=selector, methods="none"), tiny.registry())
    assert cell.plan.data.key == key
    assert key in stages.DATA_AS_BEFORE
    other = spec.build(tiny.registry(), task=f"{selector}[near_duplicates=drop]", methods="none")
    document = matrix.cells(other, tiny.registry())[0].plan.data.document
    assert document["operation_version"] == OPERATION_VERSION["data"] > 1


def prompt(id_, split, text):
    return files.Prompt(id=id_, split=split, prompt=text, references=("x",), meta={})


def test_a_planted_leak_is_found_and_named():
    clean = [prompt("a", "train", "red house"), prompt("b", "train", "house, red"), prompt("c", "test", "blue house")]
    assert data.leaks(clean) == []
    (found,) = data.leaks([*clean, prompt("d", "test", "House  RED!")])
    assert found.startswith("d (test) is a (train): 'House  RED!'")
    assert len(data.leaks([*clean, prompt("d", "test", "red house"), prompt("e", "validation", "red house")])) == 2


def run(tmp_path, monkeypatch, examples, **params):
    from plad_bench.contract import registry
    from plad_bench.contract.components import Task

    task = Task(
        name="planted",
        summary="",
        load=lambda params: iter(examples),
        dataset="here",
        licence="CC0-1.0",
        redistributable=True,
        metrics=("length",),
        student="tiny",
    )
    found = registry.Registered(task, registry.PluginOrigin("here", "here"))
    monkeypatch.setattr(registry.Registry, "find", lambda self, kind, name: found)
    context = tiny.context(tmp_path, job={"task": tiny.named("task", "planted", **params)})
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


def test_a_test_split_of_ones_own_is_the_test_split():
    own = [Example(prompt=f"own {i}", references=("x",), split="test") for i in range(20)]
    repeated = Example(prompt="own 3", references=("of training",))
    prompts = data.split([*EXAMPLES, repeated, *own])
    by_split = {name: {p.prompt for p in prompts if p.split == name} for name in data.SHARES}
    assert by_split["test"] == {e.prompt for e in own}
    assert len(by_split["train"]) + len(by_split["validation"]) == 600
    assert 20 < len(by_split["validation"]) < 100, "the split that nobody names comes of the training examples"
    assert next(p for p in prompts if p.prompt == "own 3").references == ("x",)
    assert data.leaks(prompts) == []


def test_the_last_split_that_names_a_prompt_has_it(tmp_path, monkeypatch):
    named = [Example(prompt=e.prompt, references=e.references, split=s) for e, s in zip(EXAMPLES, SPLITS, strict=True)]
    again = [Example(prompt=f" {e.prompt}", references=("other",), split="train") for e in EXAMPLES[:90]]
    context = run(tmp_path, monkeypatch, [*named, *again])
    assert [context.counts[f"{name}_prompts"] for name in data.SHARES] == [SPLITS.count(name) for name in data.SHARES]
    assert context.counts["left_to_a_later_split"] == 90 - SPLITS[:90].count("train")
    with pytest.raises(StageError, match="an example names the split 'dev'"):
        data.split([Example(prompt="a", references=("b",), split="dev")])


def bad_rows(count):
    return [BadRow(where=f"rows.jsonl, line {i}", reason="no field prompt") for i in range(count)]


def test_bad_rows_are_counted_and_the_first_ones_listed(tmp_path, monkeypatch, capfd):
    context = run(tmp_path, monkeypatch, [*bad_rows(12), *EXAMPLES, Origin(id="someone/data", revision="c0ffee")])
    assert context.counts["bad_rows"] == 12
    listed = [f"rows.jsonl, line {i}: no field prompt" for i in range(data.LISTED)]
    assert context.notes == {"bad_rows": listed, "origin": {"id": "someone/data", "revision": "c0ffee"}}
    log = capfd.readouterr().out
    assert "12 of 612 rows cannot be used" in log
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
    assert context.counts.get("near_duplicates", 0) == (not drop)
    assert f"{ids[leak]} (train) is " in capfd.readouterr().out
    kept = files.read_prompts(tiny.Artifact(context.out, {}), "train")
    assert (leak in {p.prompt for p in kept}) is not drop
    assert context.counts.get("near_duplicates_dropped", 0) == drop
    evaluated = files.read_prompts(tiny.Artifact(context.out, {}), home)
    assert text in {p.prompt for p in evaluated}, "what is evaluated stays"


def jaccard(a, b):
    return len(a & b) / len(a | b) if a | b else 0.0


def similarities(texts):
    """The long way: the smaller Jaccard similarity, of all word triples and of those that few texts have."""
    every = []
    for text in texts:
        padded = ["", "", *words.tokens(text), "", ""]
        every.append(set(zip(padded, padded[1:], padded[2:], strict=False)))
    having = collections.Counter(triple for triples in every for triple in triples)
    few = [{t for t in triples if having[t] <= near_duplicates.template_size(len(texts))} for triples in every]
    return lambda i, j: min(jaccard(every[i], every[j]), jaccard(few[i], few[j]))


@pytest.mark.parametrize("threshold", [0.3, 0.5, 0.8])
def test_every_near_duplicate_is_found_and_nothing_else(threshold):
    texts = ["red", "red house", "!"]
    for i in range(50):
        text = tiny.sentence(i, 4 + i % 40)
        texts += [text, text.upper(), f"{text} again", f"please {text.replace('river', 'lake')}"]
    prompts = [prompt(f"{i:03}", near_duplicates.ORDER[(i + i // 5) % 3], text) for i, text in enumerate(texts)]
    found = {one.prompt.id: one for one in near_duplicates.near_duplicates(prompts, threshold)}
    similarity = similarities(texts)
    for i, p in enumerate(prompts):
        later = [
            k
            for k, o in enumerate(prompts)
            if near_duplicates.ORDER.index(o.split) > near_duplicates.ORDER.index(p.split)
        ]
        matches = {prompts[k].id: s for k in later if (s := similarity(i, k)) >= threshold}
        assert (p.id in found) == bool(matches)
        if matches:
            assert found[p.id].similarity == pytest.approx(matches[found[p.id].other.id])
    assert 0 < len(found) < len(prompts)


INSTRUCTION = (
    "You are a support agent of a company that sells kitchen machines. Read the ticket below, which a customer wrote, "
    "and answer it in two or three friendly sentences. Say first that you are sorry, then what the customer can do, "
    "and then what we will do. Never promise money. Never name another company. Do not use lists, headings or "
    "emojis, and sign with the first name of an agent."
)
SHORT_INSTRUCTION = "Answer this ticket of a customer in two or three friendly sentences, please:"


@pytest.mark.parametrize("instructions", [(INSTRUCTION,), (SHORT_INSTRUCTION,), (INSTRUCTION, SHORT_INSTRUCTION)])
@pytest.mark.parametrize("ending", ["", "\n\nThe answer, in the tone that is described above, without a greeting:"])
@pytest.mark.parametrize("count", [40, 300])
def test_an_instruction_that_prompts_share_makes_no_near_duplicates(instructions, ending, count):
    rng = random.Random(count)
    vocabulary = [
        f"{a}{b}" for a in ["mixer", "toaster", "kettle", "oven", "grill", "pan", "fridge"] for b in "abcdefghijklmno"
    ]
    tickets = [" ".join(rng.sample(vocabulary, rng.randint(4, 9))) for _ in range(count)]
    splits = rng.choices(near_duplicates.ORDER, (6, 2, 2), k=count)
    prompts = [
        prompt(f"{i:03}", splits[i], f"{instructions[i % len(instructions)]}\n\n{ticket}{ending}")
        for i, ticket in enumerate(tickets)
    ]
    assert near_duplicates.near_duplicates(prompts) == []
    evaluated = next(p for p in prompts if p.split == "test")
    repeated = prompt("planted", "train", evaluated.prompt.replace("below", "above").replace("please", "now"))
    longer = prompt("longer", "test", f"{instructions[0]}\n\n{' '.join(vocabulary[:12])}{ending}")
    changed = prompt("changed", "train", longer.prompt.replace(vocabulary[5], "waffle"))
    found = near_duplicates.near_duplicates([*prompts, repeated, longer, changed])
    names = {(one.prompt.id, one.other.id) for one in found}
    assert ("changed", "longer") in names, "behind an instruction a changed word is still found"
    assert names - {("planted", evaluated.id)} == {("changed", "longer")}


def test_short_questions_with_another_word_are_other_questions():
    assert (
        near_duplicates.near_duplicates(
            [prompt("a", "train", "how do I bake bread"), prompt("b", "test", "how do I bake fish")], 0.5
        )
        == []
    )
    assert near_duplicates.near_duplicates([prompt("a", "train", "only training")], 0.5) == []


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
