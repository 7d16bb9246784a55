"""The tasks demo and e2e, and the slot-error metrics: data made or read right, and texts read back right."""

import hashlib
import math
from collections import defaultdict
from random import Random

import pytest

from plad_bench import Scored
from plad_bench_plugins.demo import grammar
from plad_bench_plugins.demo.lexicon import LEXICON, NAME, NAMES
from plad_bench_plugins.metrics import slots as metric
from plad_bench_plugins.tasks import demo, e2e

# ------------------------------------------------------------------------------------------------------------ demo


@pytest.fixture(scope="module")
def examples():
    return list(demo.load(None))


def test_demo_is_the_data_it_was_frozen_as(examples):
    text = "\n".join("\n".join((e.prompt, *e.references)) for e in examples)
    # A change here makes another task: raise its version, and remake the shipped teacher and the board.
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "c1eaced508464994"


def test_demo_meanings_are_many_and_distinct(examples):
    assert len(examples) == len({e.prompt for e in examples}) == grammar.MEANINGS
    assert all(3 <= len(e.meta["slots"]) <= 7 and e.meta["slots"][0][0] == NAME for e in examples)
    assert all(3 <= len(set(e.references)) == len(e.references) <= 5 for e in examples)


def test_demo_has_every_value_in_both_meanings_and_references(examples):
    seen = {tuple(slot) for e in examples for slot in e.meta["slots"]}
    assert seen == {(NAME, name) for name in NAMES} | {(s, v) for s, values in LEXICON.items() for v in values}


def test_demo_key_means_one_value():
    meanings = defaultdict(set)
    for key, slot, value in grammar.readings():
        meanings[key].add((slot, value))
    assert [key for key, found in meanings.items() if len(found) > 1] == []


def test_demo_every_reference_reads_back_exactly(examples):
    wrong = [(e.prompt, r) for e in examples for r in e.references if grammar.slot_errors(r, e.meta["slots"]) != (0, 0)]
    assert wrong == []


def test_demo_counts_a_dropped_a_made_up_and_a_changed_slot(examples):
    rng = Random(0)
    for example in examples[:400]:
        meaning = dict(example.meta["slots"])
        slot = rng.choice([s for s in meaning if s != NAME])
        less = {s: v for s, v in meaning.items() if s != slot}
        other = rng.choice([v for v in LEXICON[slot] if v != meaning[slot]])
        assert grammar.slot_errors(grammar.realise(less, rng), list(meaning.items())) == (1, 0)
        assert grammar.slot_errors(grammar.realise(meaning, rng), list(less.items())) == (0, 1)
        assert grammar.slot_errors(grammar.realise(meaning | {slot: other}, rng), list(meaning.items())) == (1, 1)
        renamed = meaning | {NAME: rng.choice([n for n in NAMES if n != meaning[NAME]])}
        assert grammar.slot_errors(grammar.realise(renamed, rng), list(meaning.items())) == (1, 1)


def test_demo_reads_whole_words_and_the_longest_key():
    assert grammar.read("An undemanding 13 km walk, not open to dogs.") == {
        ("level", "easy"),
        ("length", "13 km"),
        ("dogs", "no"),
    }
    assert grammar.read("It is inexpensive; demandingly so.") == {("price", "under 10 euros")}
    assert grammar.slot_errors("", [["name", "Sable Loop"]]) == (1, 0)


def test_demo_meaning_has_hundreds_of_wordings(examples):
    for example in examples[:10]:
        meaning = dict(example.meta["slots"])
        assert len({grammar.realise(meaning, Random(i)) for i in range(1000)}) > 300


def test_demo_wording_depends_on_the_generator_alone():
    meaning = next(grammar.meanings())
    assert grammar.realise(meaning, Random(3)) == grammar.realise(meaning, Random(3))


def test_demo_sentences_are_punctuated_and_capital(examples):
    for example in examples:
        for reference in example.references:
            assert "[" not in reference
            assert reference.endswith(".")
            assert reference[0].isupper()
            assert "  " not in reference


# ------------------------------------------------------------------------------------------------------------- e2e

MR = "name[The Heron], eatType[pub], food[Thai, Lao], customer rating[5 out of 5], near[Café Blau]"


def write(directory, text, name="rows.csv"):
    (directory / name).write_text(text, encoding="utf-8")
    return e2e.E2EParams(path=directory)


def test_e2e_pools_the_files_and_parses_meanings(tmp_path):
    write(tmp_path, f'mr,ref,fixed\n"{MR}","One text,\nof two lines.",0\n', "b.csv")
    params = write(tmp_path, "ref,mr\nOther.,name[Aa]\n", "a.csv")
    e2e.RECORDS[0].require(params)
    first, _, second, _ = e2e.load(params)
    assert (first.prompt, first.references, first.meta["slots"]) == ("name[Aa]", ("Other.",), [("name", "Aa")])
    assert second.prompt == MR
    assert second.meta["slots"] == [
        ("name", "The Heron"),
        ("eatType", "pub"),
        ("food", "Thai, Lao"),
        ("customer rating", "5 out of 5"),
        ("near", "Café Blau"),
    ]


def test_e2e_slot_may_come_twice():
    assert e2e.parse("eatType[pub], eatType[restaurant]") == [("eatType", "pub"), ("eatType", "restaurant")]


@pytest.mark.parametrize("bad", ["name", "name[]", "name[a", "name[a] food[b]", "name[a],", "[a]", "name[a[b]]"])
def test_e2e_bad_meaning_is_named_with_file_and_line(tmp_path, bad):
    params = write(tmp_path, f'mr,ref\nname[a],Fine.\n"{bad}",Text.\n')
    good, row, source = e2e.load(params)
    assert source.rows == 2
    assert good.references == ("Fine.",)
    assert (row.where, row.reason) == ("rows.csv, line 3", "not a meaning representation, slot[value], slot[value]")


def test_e2e_rows_from_the_hub_are_the_same_examples():
    published = {"meaning_representation": "name[Aa]", "human_reference": "Here is Aa."}
    assert e2e.example(published) == e2e.example({"mr": "name[Aa]", "ref": "Here is Aa."})


@pytest.mark.parametrize(
    ("slot", "value", "text"),
    [
        ("name", "The Heron", "Go to THE HERON."),
        ("near", "Café Blau", "It is by Cafe Blau."),
        ("food", "Fast food", "It sells fast-food."),
        ("food", "Thai", "A thai kitchen."),
        ("eatType", "coffee shop", "A café by the road."),
        ("area", "city centre", "In the center of the city."),
        ("area", "riverside", "Down by the river."),
        ("priceRange", "cheap", "It is low-priced."),
        ("priceRange", "less than £20", "Meals are cheap."),
        ("priceRange", "£20-25", "You pay £20 to £25."),
        ("priceRange", "£20-25", "It is moderately priced."),
        ("priceRange", "more than £30", "The price range is high."),
        ("priceRange", "high", "Over £30 a head."),
        ("customer rating", "5 out of 5", "It is highly rated."),
        ("customer rating", "1 out of 5", "It has a low customer rating."),
        ("customer rating", "average", "A three star place."),
        ("familyFriendly", "yes", "It is child friendly."),
        ("familyFriendly", "yes", "Bring the kids."),
        ("familyFriendly", "no", "It is not family-friendly."),
        ("familyFriendly", "no", "It is non-kid-friendly."),
        ("familyFriendly", "no", "Children are not allowed."),
        ("familyFriendly", "no", "For adults only."),
    ],
)
def test_e2e_value_is_found_and_nothing_else(slot, value, text):
    assert e2e.slot_errors(text, [[slot, value]]) == (0, 0)
    assert e2e.slot_errors("It is there.", [[slot, value]]) == (1, 0)


def test_e2e_contradictions_are_missing_and_added():
    assert e2e.slot_errors("It is expensive.", [["priceRange", "cheap"]]) == (1, 1)
    assert e2e.slot_errors("It is not child-friendly.", [["familyFriendly", "yes"]]) == (1, 1)
    assert e2e.slot_errors("A cheap pub.", [["priceRange", "cheap"]]) == (0, 1)


def test_e2e_words_of_a_name_say_nothing_else():
    slots = [["name", "Blau"], ["near", "Old Indian Coffee House"], ["food", "French"]]
    assert e2e.slot_errors("Blau, a French kitchen near Old Indian Coffee House.", slots) == (0, 0)
    assert e2e.slot_errors("Blau, an Indian kitchen near Old Indian Coffee House.", slots) == (1, 1)


# --------------------------------------------------------------------------------------------------------- metrics


def scored(response, **meta):
    return Scored(id="0", prompt="p", references=("r",), meta=meta, response=response)


def values(name, *given):
    record = next(record for record in metric.RECORDS if record.name == name)
    assert (record.better, record.unit) == ("lower", "%")
    return list(record.score(given, None, None))


def test_slot_metrics_are_per_slot_and_add_up():
    meta = {"matcher": "plad_bench_plugins.demo.grammar:slot_errors"}
    slots = [["name", "Sable Loop"], ["level", "hard"], ["price", "free"], ["dogs", "no"]]
    wrong = scored("Sable Loop is a free, easy walk in summer.", slots=slots, **meta)
    right = scored("Sable Loop is hard and free. No dogs are allowed.", slots=slots, **meta)
    assert values("missing-slots", wrong, right) == [0.5, 0]
    assert values("added-slots", wrong, right) == [0.5, 0]
    assert values("slot-errors", wrong, right) == [1.0, 0]


def test_slot_metrics_have_no_value_without_slots():
    for name in ("slot-errors", "missing-slots", "added-slots"):
        assert all(math.isnan(v) for v in values(name, scored("Hi."), scored("Hi.", slots=[], matcher="x:y")))


def test_slot_metrics_read_what_the_tasks_yield(examples, tmp_path):
    row, _ = e2e.load(write(tmp_path, 'mr,ref\n"name[Aa], eatType[pub]",Aa is a pub.\n'))
    for example in (examples[0], row):
        assert values("slot-errors", scored(example.references[0], **example.meta)) == [0]


def test_task_records_agree_with_the_contract():
    (synthetic,), (real,) = demo.RECORDS, e2e.RECORDS
    assert synthetic.metrics[0] == "slot-errors"
    assert real.metrics[0] == "missing-slots"
    assert set(synthetic.metrics) == set(real.metrics)
    assert synthetic.redistributable
    assert not real.redistributable
    assert synthetic.artifacts() in {None, demo.ARTIFACTS}
