"""Pair builders, the filters they share, several samples of a prompt, and what of it all is keyed and skipped."""

from __future__ import annotations

import json
import math
import random
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import tiny

from plad_bench import Candidates, Pair, PairParams, Protocol, Response, StageError, Text, UsageError
from plad_bench.execute.stages import files
from plad_bench.execute.stages.pair_filters import sift
from plad_bench.plan import boardfile, matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench.records import storage
from plad_bench.records import validation as report_cells

BUILDERS = ("teacher-over-student", "reference-over-student", "reranked", "best-of-n", "mbr")


def response(text):
    return Response(text=text, ids=tuple(map(ord, text)))


def candidates(id_="a", **texts):
    sources = {Text[source.upper()]: tuple(map(response, of)) for source, of in texts.items()}
    return Candidates(id=id_, prompt="p", responses={Text.REFERENCE: (), **sources}, meta={"m": 1})


def shared_words(examples):
    """Words shared with the references, NaN for a response that says nan."""
    said = [set(" ".join(e.references).split()) for e in examples]
    return [
        math.nan if "nan" in e.response else float(len(words & set(e.response.split())))
        for e, words in zip(examples, said, strict=True)
    ]


SCORERS = {"shared": shared_words, "short": lambda examples: [-float(len(e.response)) for e in examples]}


def build(name, *of, **params):
    builder = tiny.registry().get("pair builder", name)
    return list(builder.build(of, builder.params(**params), SCORERS.__getitem__))


def texts(pairs):
    return [(pair.chosen.text, pair.rejected.text) for pair in pairs]


# ----------------------------------------------------------------------------------------------------------- builders


def test_the_teacher_or_the_reference_is_chosen_and_the_sample_rejected():
    one = candidates(reference=["r"], teacher=["t"], sample=["s"])
    assert texts(build("teacher-over-student", one)) == [("t", "s")]
    assert texts(build("reference-over-student", one)) == [("r", "s")]
    (pair,) = build("teacher-over-student", one)
    assert (pair.id, pair.margin, pair.chosen.ids) == ("a", None, (ord("t"),))


def test_every_sample_gives_a_pair_and_the_others_take_turns():
    assert texts(build("teacher-over-student", candidates(teacher=["t"], sample=["s0", "s1"]))) == [
        ("t", "s0"),
        ("t", "s1"),
    ]
    several = candidates(reference=["r0", "r1"], sample=["s0", "s1", "s2"])
    assert texts(build("reference-over-student", several)) == [("r0", "s0"), ("r1", "s1"), ("r0", "s2")]
    assert build("reference-over-student", candidates(sample=["s"])) == []


def test_a_ranker_turns_pairs_round():
    of = candidates("a", teacher=["long text"], sample=["brief"]), candidates("b", teacher=["b"], sample=["bbb", "c"])
    pairs = build("reranked", *of, scorer="short")
    assert texts(pairs) == [("brief", "long text"), ("b", "bbb"), ("b", "c")]
    assert [pair.margin for pair in pairs] == [4, 2, 0]


def test_the_best_sample_beats_the_worst():
    one = candidates(reference=["x y z"], sample=["x", "x y z", "q", "x y"])
    (pair,) = build("best-of-n", one, scorer="shared")
    assert (texts([pair]), pair.margin) == ([("x y z", "q")], 3)
    assert texts(build("best-of-n", one, scorer="shared", per_prompt=2)) == [("x y z", "q"), ("x y", "x")]
    assert texts(build("best-of-n", one, scorer="shared", n=2)) == [("x y z", "x")]
    assert math.isnan(build("best-of-n", candidates(sample=["nan", "x"]), scorer="shared")[0].margin)


def test_mbr_takes_the_sample_most_like_the_others_whatever_the_reference():
    pool = ["a b c", "a b d", "a e f", "q"]
    for reference in ("q", "a e f"):
        (pair,) = build("mbr", candidates(reference=[reference], sample=pool), utility="shared")
        assert texts([pair]) == [("a b c", "q")]
        assert pair.margin == pytest.approx((2 + 1 + 0) / 3)


def test_one_call_of_the_scorer_serves_all_prompts():
    calls = []

    def scorers(selector):
        return lambda examples: calls.append(len(examples)) or shared_words(examples)

    of = [candidates(str(i), teacher=["t"], sample=["a", "b", "c"]) for i in range(5)]
    for name in ("reranked", "best-of-n", "mbr"):
        builder = tiny.registry().get("pair builder", name)
        list(builder.build(of, builder.params(), scorers))
    assert calls == [30, 15, 30]


# ------------------------------------------------------------------------------------------------------------ filters

CASES = [
    ("a  b\n", " a b", None, {}, "identical"),
    ("a  b\n", " a b", 0.0, {"keep_identical": True}, ""),
    ("", " ", None, {}, "identical"),
    ("a", "b", None, {}, ""),
    ("a", "b c", None, {"min_words": 2}, "length"),
    ("a", "b c", None, {"max_words": 1}, "length"),
    ("a", "b c", None, {"max_ratio": 2}, ""),
    ("a", "b c", None, {"max_ratio": 1.9}, "ratio"),
    ("", "b", None, {"max_ratio": 9}, "ratio"),
    ("a", "b", math.nan, {}, "unscored"),
    ("a", "b", 0.0, {}, "tie"),
    ("a", "b", -0.1, {"margin": 0}, "margin"),
    ("a", "b", 0.1, {"margin": 0.2}, "margin"),
    ("a", "b", 0.2, {"margin": 0.2}, ""),
]


@pytest.mark.parametrize(("chosen", "rejected", "margin", "params", "reason"), CASES)
def test_a_pair_is_dropped_for_the_first_reason_there_is(chosen, rejected, margin, params, reason):
    pair = Pair(id="a", chosen=response(chosen), rejected=response(rejected), margin=margin)
    kept, dropped = sift([pair], PairParams(**params))
    assert kept == ([] if reason else [pair])
    assert dropped == Counter([reason] if reason else [])


def test_the_first_pairs_of_a_prompt_are_kept():
    pairs = [Pair(id=i, chosen=response(t), rejected=response("x")) for i, t in zip("aababa", "x12345", strict=True)]
    kept, dropped = sift(pairs, PairParams(per_prompt=2))
    assert [pair.chosen.text for pair in kept] == ["1", "2", "3", "4"]
    assert dropped == {"identical": 1, "surplus": 1}


@pytest.mark.parametrize("wrong", ["margin=-1", "max_ratio=0.5", "per_prompt=-1", "min_words=x"])
def test_filters_have_ranges(wrong):
    with pytest.raises(UsageError):
        choose(tiny.registry(), "pair builder", f"teacher-over-student[{wrong}]")


# ---------------------------------------------------------------------------------------------------------- the stage


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return tiny.World(tmp_path_factory.mktemp("world"))


def sample(world, count):
    """Put `count` samples of each prompt into the world."""
    spec_ = {"split": "train", "max_new_tokens": 6, "temperature": 1.0, "top_k": 40, "precision": "float32", "seed": 3}
    spec_ |= {"backend": "transformers"}
    return world.run("generate", {**spec_, **({"samples": count} if count != 1 else {})})


def pairs_of(artifact):
    return list(files.read_lines(artifact.path / files.PAIRS))


def test_the_first_of_several_samples_is_what_a_single_one_would_be(world):
    one, three = sample(world, 1), sample(world, 3)
    single = list(files.read_lines(one.path / files.RESPONSES))
    several = list(files.read_lines(three.path / files.RESPONSES))
    assert [row["responses"] for row in single] == [row["responses"][:1] for row in several]
    assert all(len(row["responses"]) == 3 for row in several)
    assert len({r["text"] for row in several for r in row["responses"]}) > len(several), "they are drawn apart"
    assert three.manifest["cost"]["tokens_generated"] > one.manifest["cost"]["tokens_generated"]


@pytest.mark.parametrize("name", BUILDERS)
def test_every_builder_makes_pairs_that_a_student_trains_on(world, name):
    inputs = dict(world.inputs)
    try:
        world.inputs["sample"] = sample(world, 4)
        world.inputs["pairs"] = made = world.run("pairs", {}, job={"builder": tiny.named("pair builder", name)})
        rows, counts = pairs_of(made), made.manifest["counts"]
        assert counts["pairs"] == len(rows) > 0
        made_in_all = {"best-of-n": 12, "mbr": 12}.get(name, 48)
        assert counts["pairs"] + sum(v for k, v in counts.items() if k.startswith("dropped_")) == made_in_all
        assert all(row["chosen"]["text"].split() != row["rejected"]["text"].split() for row in rows)
        if name != "reference-over-student":
            assert all(row[side]["ids"] is not None for row in rows for side in ("chosen", "rejected"))
        curves = [tiny.curve(world.train("plad", micro_batch=size)) for size in (0, 2)]
        assert math.isfinite(curves[0][-1]["loss"])
    finally:
        world.inputs = inputs


def test_what_is_dropped_is_counted_by_reason(world):
    params = {"scorer": "rouge-l", "margin": 0.9, "max_words": 5}
    made = world.run("pairs", {}, job={"builder": tiny.named("pair builder", "reference-over-student", **params)})
    counts = made.manifest["counts"]
    assert counts["dropped_length"] > 0
    assert counts["dropped_margin"] > 0
    dropped = sum(v for k, v in counts.items() if k.startswith("dropped_"))
    assert counts["pairs"] + dropped == world.prompts
    score = tiny.registry().get("metric", "rouge-l")
    prompts = {p.id: p for p in files.read_prompts(world.inputs["data"], "train")}
    for row in pairs_of(made):
        sides = [files.scored(prompts[row["id"]], row[side]["text"]) for side in ("chosen", "rejected")]
        better, worse = score.score(sides, score.params(), None)
        assert better - worse >= 0.9


def test_filters_that_leave_nothing_say_what_they_dropped(world):
    job = {"builder": tiny.named("pair builder", "teacher-over-student", min_words=1000)}
    with pytest.raises(StageError, match=r"made no pair out of 12 prompts \(dropped: 12 length\)") as caught:
        world.run("pairs", {}, job=job)
    assert "--samples" in caught.value.remedy


# --------------------------------------------------------------------------------------------- keys, plans and boards


def cell(pairs="teacher-over-student", methods="plad", **conditions):
    run = spec.build(
        tiny.registry(),
        task="demo",
        methods=methods,
        pairs=pairs,
        overrides={"demo": conditions} if conditions else None,
    )
    return [c for c in matrix.cells(run, tiny.registry()) if c.method is not None]


def pairs_stage(**given):
    return cell(**given)[0].checkpoint.inputs["pairs"]


def test_what_builders_always_did_is_keyed_as_it_always_was():
    for name in ("teacher-over-student", "reference-over-student"):
        document = pairs_stage(pairs=name).document["spec"]
        assert document == {"builder": {"name": name, "version": 1, "params": {}}}
    assert "samples" not in cell()[0].plan.sample.spec
    assert "samples" not in spec.protocol_values(Protocol())


def test_a_filter_and_the_metric_that_orders_are_keyed():
    keys = {
        pairs_stage(pairs=f"teacher-over-student{filters}").key for filters in ("", "[min_words=1]", "[per_prompt=1]")
    }
    assert len(keys) == 3
    stage = pairs_stage(pairs="reranked")
    assert stage.spec["builder"]["params"] == {"scorer": "rouge-l"}
    assert stage.spec["orders"]["name"] == "rouge-l"
    (metric,) = choose(tiny.registry(), "metric", "rouge-l")
    newer = replace(metric, registered=replace(metric.registered, component=replace(metric.component, version=9)))
    one = cell(pairs="reranked")[0]
    assert one.plan.pairs(one.pairs, None, newer).key != one.plan.pairs(one.pairs, None, metric).key
    assert pairs_stage(pairs="mbr[utility=rouge-1]", samples=3).spec["orders"]["name"] == "rouge-1"


def test_samples_are_keyed_where_there_are_several():
    one, four = cell()[0].plan, cell(samples=4)[0].plan
    assert four.sample.spec["samples"] == 4
    assert one.sample.key != four.sample.key
    assert one.teach.key == four.teach.key, "a greedy teacher has one answer"
    warm = cell(samples=4, teach_temperature=0.7)[0].plan
    assert warm.teach.spec["samples"] == 4
    assert one.sft_init.key == four.sft_init.key
    assert "samples" not in four.evaluate(four.init).spec


@pytest.mark.parametrize(
    ("pairs", "conditions", "reason"),
    [
        ("best-of-n", {}, "best-of-n needs 2 responses per prompt, but the run samples only 1 (--samples)"),
        ("best-of-n[n=4]", {"samples": 3}, "best-of-n[n=4] needs 4 responses per prompt, but the run samples only 3"),
        ("best-of-n[n=2]", {"samples": 2}, ""),
        ("mbr", {"samples": 2}, "mbr needs 3 responses"),
        ("mbr", {"samples": 8, "sample_temperature": 0.0}, "samples only 1 "),
        ("mbr[per_prompt=3]", {"samples": 5}, "needs 6 responses"),
        ("reranked[scorer=length]", {}, "length has no direction, so reranked[scorer=length] cannot order by it"),
    ],
)
def test_what_a_builder_cannot_do_is_known_before_any_work(pairs, conditions, reason):
    (one,) = cell(pairs=pairs, **conditions)
    assert reason in one.skip
    assert bool(one.skip) == bool(reason)


def test_a_margin_needs_a_scorer_and_mbr_has_one():
    with pytest.raises(UsageError, match="`margin` needs a scorer"):
        cell(pairs="teacher-over-student[margin=0.1]")
    assert cell(pairs="teacher-over-student[margin=0.1,scorer=rouge-l]")[0].orders.label == "rouge-l"
    assert cell(pairs="mbr[margin=0.1]", samples=3)[0].orders.label == "rouge-l"
    with pytest.raises(UsageError, match="agreement cannot score training pairs: it needs the teacher"):
        cell(pairs="reranked[scorer=agreement]")
    with pytest.raises(UsageError, match="does not accept scorer="):
        cell(pairs="mbr[scorer=rouge-l]")
    with pytest.raises(UsageError, match="unknown metric"):
        cell(pairs="reranked[scorer=rouge-x]")


def test_a_board_that_does_not_speak_of_samples_has_one(tmp_path):
    plain = boardfile.merged(boardfile.BoardFile(), "b", {"demo": Protocol()}, ["rouge-l"], 1)
    assert "samples" not in plain.protocol
    with pytest.raises(UsageError, match="the board fixes samples = 1"):
        boardfile.overrides(plain, "demo", {"samples": 4})
    assert boardfile.overrides(plain, "demo", {"samples": None})["samples"] == 1
    assert boardfile.overrides(boardfile.BoardFile(), "demo", {"samples": 4}) == {"samples": 4}
    several = boardfile.merged(boardfile.BoardFile(), "b", {"demo": Protocol(samples=4)}, ["rouge-l"], 1)
    assert several.protocol["samples"] == 4
    both = boardfile.merged(several, "b", {"e2e": Protocol()}, ["rouge-l"], 1)
    assert (both.conditions("demo")["samples"], both.conditions("e2e")["samples"]) == (4, 1)
    assert boardfile.merged(plain, "b", {"demo": Protocol()}, ["rouge-l"], 1) == plain
    boardfile.write(tmp_path / "board.toml", both)
    assert boardfile.read(tmp_path / "board.toml").conditions("e2e")["samples"] == 1


@pytest.mark.parametrize(
    ("board", "record", "foreign"), [({}, {}, 0), ({}, {"samples": 4}, 1), ({"samples": 4}, {}, 1)]
)
def test_records_with_other_samples_are_foreign(board, record, foreign):
    base = spec.protocol_values(Protocol())
    conditions = boardfile.BoardFile(protocol={**base, **board}).conditions("demo")
    part = SimpleNamespace(name="demo")
    one = SimpleNamespace(
        record=SimpleNamespace(protocol={**base, **record}, status="done", task=part, seed=0, scores=None),
        group="g",
        method="m",
        file="f",
    )
    complaints = []
    kept = report_cells.consistent([one], lambda task: conditions, lambda cell, reason: complaints.append(reason))
    assert (len(complaints), len(kept)) == (foreign, 1 - foreign)
    assert all("samples" in reason for reason in complaints)


def test_records_show_a_builder_with_what_was_asked():
    (chosen,) = choose(tiny.registry(), "pair builder", "best-of-n[n=4,max_ratio=2]")
    assert chosen.label == "best-of-n[max_ratio=2,n=4]"
    assert json.loads(json.dumps(chosen.public()["params"])) == {
        "scorer": "rouge-l",
        "n": 4,
        "per_prompt": 1,
        "max_ratio": 2.0,
    }


# ------------------------------------------------------------------------------------------------ from plan to board

THINGS = ("cat", "dog", "boss", "sister", "flat", "rent", "bread", "river", "train", "phone", "party", "exam", "letter")
DEEDS = ("lost", "found", "broke", "sold", "missed", "wanted", "burned", "painted", "borrowed", "returned")


def said(rng):
    return f"my {rng.choice(THINGS)} {rng.choice(DEEDS)} the {rng.choice(THINGS)}"


def written(directory):
    """Posts and dialogues in the schemas of the published ones, and two bad rows."""
    rng = random.Random(0)
    posts, dialogues = [], []
    for _ in range(90):
        a, b, c = (said(rng) for _ in range(3))
        post = f"So {a}, then {b}. After that {c}."
        posts.append({"subreddit": "advice", "title": a, "post": post, "summary": f"{a}, {b}."})
        dialogues.append({"chosen": f"\n\nHuman: What if {a} and {b}?\n\nAssistant: Then {c}.", "rejected": ""})
    lines = [json.dumps(row) for row in posts]
    (directory / "posts.jsonl").write_text("\n".join([*lines, '{"post": ', json.dumps({"subreddit": "x"})]) + "\n")
    (directory / "dialogues.jsonl").write_text("\n".join(json.dumps(row) for row in dialogues))


@pytest.mark.slow
def test_real_schemas_run_from_plan_to_board_with_pairs_of_every_kind(tmp_path):
    written(tmp_path)
    size = "layers=1,width=16,heads=2,vocabulary=300,context=192"
    arguments = [
        *("--task", "tldr[path=posts.jsonl],hh[path=dialogues.jsonl]"),
        *("--methods", "plad", "--pairs", "reranked,mbr", "--samples", "3", "--metrics", "rouge-l"),
        *("--student", f"scratch[{size}]", "--teacher", f"scratch[{size},steps=3]", "--board", "b"),
        *("--steps", "2", "--sft-steps", "2", "--lr", "1e-3", "--sft-lr", "1e-3", "--batch", "4"),
        *("--max-new-tokens", "6", "--store", "store", "--gpus", "none"),
    ]
    program = str(Path(sys.executable).with_name("plad-bench"))

    def plad_bench(command):
        return subprocess.run([program, command, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False)

    planned = plad_bench("plan")
    assert planned.returncode == 0, planned.stderr
    done = plad_bench("run")
    assert done.returncode == 0, done.stderr
    assert "10 done, 0 cached, 0 skipped, 0 failed" in done.stderr
    board = tmp_path / "leaderboards" / "b"
    assert "3 responses per prompt" in (board / "README.md").read_text()
    found = [storage.read(path) for path in board.glob("cells/**/*.json")]
    assert {r.protocol["samples"] for r in found} == {3}
    tldr = [r for r in found if r.task.name == "tldr"]
    assert {r.counts["data.bad_rows"] for r in tldr} == {2}
    assert tldr[0].provenance["notes"]["data"]["bad_rows"] == [
        "posts.jsonl, line 91: not JSON: Expecting value at column 9",
        "posts.jsonl, line 92: no field post",
    ]
    pairs = {r.pairs.name: r for r in tldr if r.pairs}
    assert set(pairs) == {"reranked", "mbr"}
    assert all(r.counts["pairs.pairs"] > 0 for r in pairs.values())


def test_a_scorer_on_this_machine_is_looked_for_and_its_place_is_told_to_nobody(tmp_path):
    from plad_bench import MissingError
    from plad_bench.plan import requirements

    place = tmp_path / "judge"
    for pairs in (f"reranked[scorer=reward[path={place}]]", f"mbr[utility=reward[path={place}]]"):
        (one,) = cell(pairs=pairs, samples=3)
        assert str(tmp_path) not in json.dumps([one.id, one.pairs.public(), one.pairs.label])
        with pytest.raises(MissingError, match="judge"):
            requirements.check([one])
