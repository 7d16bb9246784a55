"""Selectors, the matrix of cells, and the keys that name results for ever."""

from __future__ import annotations

import json
import random
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import tiny

from plad_bench.contract.errors import NothingSelectedError, UsageError
from plad_bench.contract.names import slug
from plad_bench.contract.protocol import Protocol
from plad_bench.contract.registry import Registry
from plad_bench.execute.store import Store
from plad_bench.plan import boardfile, matrix, spec
from plad_bench.plan.chosen import choose
from plad_bench.plan.selectors import Selector, parse
from plad_bench.plan.stage import Stage, digest

# -------------------------------------------------------------------------------------------------------- selectors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kd", [("kd", {})]),
        (" kd , plad ,", [("kd", {}), ("plad", {})]),
        ("kd[temperature=2]", [("kd", {"temperature": "2"})]),
        ("kd[ temperature = 2 , ce_weight=0 ]", [("kd", {"temperature": "2", "ce_weight": "0"})]),
        ("kd[temperature=1|2]", [("kd", {"temperature": "1"}), ("kd", {"temperature": "2"})]),
        (
            "a[x=1|2,y=3|4]",
            [
                ("a", {"x": "1", "y": "3"}),
                ("a", {"x": "1", "y": "4"}),
                ("a", {"x": "2", "y": "3"}),
                ("a", {"x": "2", "y": "4"}),
            ],
        ),
        ("plad[scorer='rouge-l[use_stemmer=false]']", [("plad", {"scorer": "rouge-l[use_stemmer=false]"})]),
        ("plad[scorer=rouge-l[a=1,b=2]],kd", [("plad", {"scorer": "rouge-l[a=1,b=2]"}), ("kd", {})]),
        ('hf[path="a,b|c]d"]', [("hf", {"path": "a,b|c]d"})]),
        ("", []),
    ],
)
def test_selectors(text, expected):
    assert parse(text) == [Selector(name, tuple(values.items())) for name, values in expected]


@pytest.mark.parametrize(
    "text", ["kd[", "kd]", "kd[x]", "kd[=1]", "kd[x=1,x=2]", "[x=1]", "kd[x='1]", "kd[x=1]y", "kd[x=[1]"]
)
def test_what_cannot_be_read_is_shown(text):
    with pytest.raises(UsageError, match="cannot parse") as caught:
        parse(f"sft,{text}")
    assert repr(f"sft,{text}") in caught.value.message


def one_of(kind, text):
    return choose(tiny.registry(), kind, text)


def test_a_sweep_is_one_component_for_each_value():
    chosen = one_of("method", "kd[temperature=1|2|4]")
    assert [c.label for c in chosen] == ["kd", "kd[temperature=2]", "kd[temperature=4]"]
    assert len(one_of("method", "kd,kd[temperature=1.0],kd[temperature=2|2.0]")) == 2


CONTROLS = ["placebo", "self-sft", "shuffled-teacher"]


def test_all_names_every_one_but_the_controls():
    every = [name for name in tiny.registry().components("method") if name not in CONTROLS]
    assert [c.label for c in one_of("method", "all")] == every
    assert {"opd", "seqkd"} < set(every)


@pytest.mark.parametrize(
    ("methods", "controls", "expected"),
    [
        ("kd", False, ["kd"]),
        ("kd", True, ["kd", *CONTROLS]),
        ("kd,placebo", False, ["kd", "placebo"]),
        ("none", True, CONTROLS),
        ("none", False, []),
    ],
)
def test_controls_are_run_when_asked_for(methods, controls, expected):
    run = spec.build(tiny.registry(), task="demo", methods=methods, controls=controls)
    assert [c.label for c in run.methods] == expected


def test_a_label_selects_the_same_component_again():
    for text in (
        "plad[loss=margin,beta=0.25,scorer='rouge-l[use_stemmer=false]']",
        "kd[data=teacher]",
        "abkd[lr=1e-5]",
    ):
        (chosen,) = one_of("method", text)
        (again,) = one_of("method", chosen.label)
        assert (again.params, again.label) == (chosen.params, chosen.label)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("kdd", "unknown method 'kdd'.*Did you mean kd"),
        ("kd[temprature=2]", "kd has no parameter 'temprature'.*Did you mean temperature"),
        ("kd[temperature=0]", r"kd\[temperature=0\]: .*greater than 0.*Allowed: number > 0; default 1.0"),
        ("kd[ce_weight=2]", r"Allowed: number >= 0 and <= 1; default 0.5"),
        ("plad[loss=hinge]", 'Allowed: rank or margin; default "rank"'),
        ("kd[temperature=warm]", "valid number.*Allowed: number > 0"),
    ],
)
def test_a_wrong_selection_says_what_is_right(text, message):
    with pytest.raises(UsageError, match=f"(?s){message}"):
        one_of("method", text)


def test_an_empty_selection_is_an_error_of_its_own():
    with pytest.raises(NothingSelectedError):
        one_of("method", " , ")


def test_a_protocol_has_the_values_of_its_task_but_those_given():
    task = one_of("task", "demo")[0].component
    assert spec.protocol(task, {"steps": 7, "lr": None}) == replace(task.protocol, steps=7)
    with pytest.raises(UsageError, match="unknown protocol setting 'stepz'"):
        spec.protocol(task, {"stepz": 7})


def test_a_board_does_not_change_its_conditions():
    board, later = boardfile.BoardFile(protocol={"steps": 300}, tasks={"e2e": {"steps": 200}}), Protocol.unsaid()
    assert boardfile.overrides(board, "demo", {"steps": None, "lr": 0.1}) == {"steps": 300, "lr": 0.1} | later
    assert boardfile.overrides(board, "e2e", {"steps": 200}) == {"steps": 200} | later
    assert boardfile.overrides(boardfile.BoardFile(), "e2e", {"teacher_logprobs": "top-8"}) == {
        "teacher_logprobs": "top-8"
    }
    with pytest.raises(UsageError, match="the board fixes teacher_logprobs = live"):
        boardfile.overrides(
            board, "demo", {"teacher_logprobs": "top-8"}
        )  # a board that does not mention it is of live ones
    with pytest.raises(UsageError, match="the board fixes steps = 300"):
        boardfile.overrides(board, "demo", {"steps": 200})


def test_a_board_file_survives_being_written(tmp_path):
    path = tmp_path / "board.toml"
    board = boardfile.merged(
        boardfile.BoardFile(), 'a "board"', {"demo": Protocol(), "e2e": Protocol(steps=7)}, ["rouge-l"], 3
    )
    board = board.model_copy(update={"maintainer": "x", "links": {"home": "y"}})
    boardfile.write(path, board)
    read = boardfile.read(path)
    assert read.model_dump() == {**board.model_dump(), "maintainer": "x", "links": {"home": "y"}}
    assert spec.protocol(one_of("task", "demo")[0].component, read.conditions("e2e")) == Protocol(steps=7)
    assert boardfile.merged(read, "", {"demo": Protocol()}, ["length"], 2) == read.model_copy(
        update={"metrics": ("rouge-l", "length")}
    )


# ------------------------------------------------------------------------------------------------------------- keys


def planned(**asked):
    usual = {"task": "demo", "methods": "sft,seqkd,kd,plad,dpo,plad[loss=margin]", "metrics": "rouge-l,win-teacher"}
    run = spec.build(tiny.registry(), **{**usual, **asked})
    return {(c.row, c.seed): c for c in matrix.cells(run, tiny.registry())}


def plan_of(**asked):
    return next(iter(planned(**asked).values())).plan


def keys(plan):
    (kd,) = one_of("method", "kd")
    stages = {
        name: getattr(plan, name.replace("-", "_"))
        for name in ("data", "init", "teacher_model", "sft-init", "teach", "sample")
    }
    stages["distill"] = plan.distill(kd, None, None)
    stages["generate"] = plan.evaluate(stages["distill"])
    return {name: stage.key for name, stage in stages.items()}


def changed(one, other):
    one, other = keys(one), keys(other)
    return {name for name in one if one[name] != other[name]}


OF_THE_SEED = {"init", "sft-init", "sample", "distill", "generate"}


def test_the_same_plan_has_the_same_keys():
    assert changed(plan_of(), plan_of()) == set()


@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_the_seed_is_in_what_depends_on_it_and_the_teacher_ignores_it(temperature):
    plan = plan_of()
    plan = replace(plan, protocol=replace(plan.protocol, teach_temperature=temperature))
    assert changed(plan, replace(plan, seed=1)) == OF_THE_SEED


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"steps": 7}, {"distill", "generate"}),
        ({"lr": 0.5}, {"distill", "generate"}),
        ({"sft_steps": 7}, {"sft-init", "sample", "distill", "generate"}),
        ({"sft_lr": 0.5}, {"sft-init", "sample", "distill", "generate"}),
        ({"batch": 7}, {"sft-init", "sample", "distill", "generate"}),
        ({"max_new_tokens": 7}, {"teach", "sample", "generate"}),
        ({"teach_temperature": 0.5}, {"teach"}),
        ({"sample_temperature": 0.5}, {"sample"}),
        ({"top_k": 7}, {"sample"}),
        ({"samples": 7}, {"sample"}),
        ({"split": "validation"}, {"generate"}),
        ({"limit": 7}, {"sft-init", "teach", "sample", "distill", "generate"}),
        ({"precision": "bf16"}, {"sft-init", "teach", "sample", "distill", "generate"}),
    ],
)
def test_a_condition_is_in_the_keys_of_what_depends_on_it(what, expected):
    plan = plan_of()
    assert changed(plan, replace(plan, protocol=replace(plan.protocol, **what))) == expected


def test_threads_are_keyed_wherever_they_can_change_a_number():
    plan = plan_of()
    expected = {"teacher_model", "sft-init", "teach", "sample", "distill", "generate"}
    assert changed(plan, replace(plan, threads=2)) == expected


def with_version(chosen):
    component = chosen.component
    return replace(
        chosen, registered=replace(chosen.registered, component=replace(component, version=component.version + 1))
    )


def test_a_new_version_of_a_component_is_in_the_keys_of_what_it_made():
    plan = plan_of()
    everything = set(keys(plan))
    assert changed(plan, replace(plan, task=with_version(plan.task))) == everything
    assert changed(plan, replace(plan, sft=with_version(plan.sft))) == everything - {"data", "init"}
    (kd,) = one_of("method", "kd")
    assert plan.distill(kd, None, None).key != plan.distill(with_version(kd), None, None).key
    (builder,) = one_of("pair builder", "teacher-over-student")
    assert plan.pairs(builder, None).key != plan.pairs(with_version(builder), None).key
    one, two = one_of("metric", "rouge-l,win-teacher")
    responses = plan.evaluate(plan.init)
    assert plan.score(one, plan.init, responses).key != plan.score(with_version(one), plan.init, responses).key
    newer = replace(two, scorer=with_version(one))
    assert plan.score(two, plan.init, responses).key != plan.score(newer, plan.init, responses).key


def test_data_are_keyed_by_their_revision():
    plan = plan_of()
    component = replace(plan.task.component, revision="another")
    task = replace(plan.task, registered=replace(plan.task.registered, component=component))
    assert changed(plan, replace(plan, task=task)) == set(keys(plan))


def test_every_parameter_of_a_method_is_keyed():
    plan = plan_of()
    chosen = one_of("method", "kd,kd[temperature=2],kd[ce_weight=0],kd[data=teacher],kd[lr=0.5]")
    assert len({plan.distill(one, None, None).key for one in chosen}) == 5


def test_a_learning_rate_of_ones_own_that_is_the_shared_one_trains_the_same():
    plan = plan_of()
    one, two = one_of("method", "kd,kd[lr=0.001]")
    assert plan.protocol.lr == 0.001
    same = {"method"}
    a, b = (plan.distill(m, None, None).spec for m in (one, two))
    assert {k for k in a if a[k] != b[k]} == same


def test_each_parameter_of_a_model_is_keyed():
    plan = plan_of()
    inits = set()
    for text in (
        "scratch",
        "scratch[layers=3]",
        "scratch[width=32]",
        "scratch[heads=2]",
        "scratch[vocabulary=512]",
        "scratch[context=128]",
    ):
        (student,) = one_of("student", text)
        inits.add(replace(plan, student=student).init.key)
    assert len(inits) == 6


def shuffled(value):
    if isinstance(value, dict):
        items = list(value.items())
        random.Random(1).shuffle(items)
        return {k: shuffled(v) for k, v in items}
    return value


def test_a_key_does_not_depend_on_the_order_of_names():
    stage = plan_of().sft_init
    document = shuffled(stage.document)
    assert list(document) != list(stage.document)
    assert digest(document) == stage.key
    parents = dict(reversed(stage.inputs.items()))
    assert replace(stage, inputs=parents, spec=shuffled(stage.spec)).key == stage.key
    (one,), (two,) = (
        one_of("method", "kd[temperature=2,ce_weight=0]"),
        one_of("method", "kd[ce_weight=0.0,temperature=2.0]"),
    )
    assert one.label == two.label
    assert digest(one.public()) == digest(two.public())


def test_a_key_has_no_room_for_numbers_that_json_lacks():
    with pytest.raises(ValueError, match="JSON"):
        _ = Stage("data", "data", {"x": float("nan")}).key


def test_what_a_worker_must_know_is_not_keyed():
    stage = plan_of().data
    assert replace(stage, job={"anything": 1}).key == stage.key


def test_stages_come_after_what_they_need_and_once():
    walked = [stage.key for stage in planned()["plad", 0].responses.walk()]
    assert len(walked) == len(set(walked))
    for stage in planned()["plad", 0].responses.walk():
        assert all(walked.index(p.key) < walked.index(stage.key) for p in stage.inputs.values())


# --------------------------------------------------------------------------------------- paths of this machine


@pytest.fixture
def local(tmp_path):
    """Two directories with the same model."""
    for name in ("one", "two"):
        directory = tmp_path / "secret-user" / name / "model"
        directory.mkdir(parents=True)
        (directory / "config.json").write_text("{}")
        (directory / "model.safetensors").write_bytes(b"weights")
    return tmp_path / "secret-user"


def test_a_local_path_reaches_no_key_no_label_and_no_record(local):
    (student,), (teacher,) = (
        one_of("student", f"hf[path={local}/one/model]"),
        one_of("teacher", f"hf[path={local}/one/model]"),
    )
    cells = planned(student=f"hf[path={local}/one/model]", teacher=f"hf[path={local}/one/model]")
    seen = [student.label, teacher.label, student.public(), teacher.public()]
    for cell in cells.values():
        seen.append(cell.id)
        for score in cell.scores.values():
            seen += [stage.document for stage in score.walk()]
    text = json.dumps(seen)
    assert "secret-user" not in text
    assert "sha256:" in text
    assert "hf[path=model-" in student.label


def test_a_directory_is_known_by_its_content(local):
    one, two = (replace(plan_of(), student=one_of("student", f"hf[path={local}/{n}/model]")[0]) for n in ("one", "two"))
    assert one.init.key == two.init.key
    assert one.student.label == two.student.label
    (local / "two" / "model" / "model.safetensors").write_bytes(b"Weights")
    two = replace(two, student=one_of("student", f"hf[path={local}/two/model]")[0])
    assert one.init.key != two.init.key
    assert one.student.label != two.student.label


def test_a_hub_model_is_known_by_id_and_revision():
    texts = ("hf[id=a/b]", "hf[id=a/c]", "hf[id=a/b,revision=main]")
    stages = [replace(plan_of(), student=one_of("student", t)[0]).init for t in texts]
    assert [dict(s.spec) for s in stages] == [
        {
            "id": "a/b",
            "revision": None,
            "prompts": {"version": 1},
        },  # nobody has resolved them, and nothing of theirs is run
        {"id": "a/c", "revision": None, "prompts": {"version": 1}},
        {"id": "a/b", "revision": "main", "prompts": {"version": 1}},
    ]
    assert len({s.key for s in stages}) == 3


def test_runs_that_share_a_board_file_lose_nothing_of_each_other(tmp_path):
    path = tmp_path / "mine" / "board.toml"
    runs = [
        boardfile.Contribution("mine", {"demo": Protocol()}, [f"metric-{n}"], n, {f"model org/{n} main": f"{n}" * 40})
        for n in range(1, 9)
    ]
    start = threading.Barrier(len(runs))

    def go(run):
        start.wait()
        boardfile.extend(path, run)

    threads = [threading.Thread(target=go, args=(run,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    board = boardfile.read(path)
    assert set(board.metrics) == {f"metric-{n}" for n in range(1, 9)}
    assert board.seeds_asked == 8
    assert board.commits == {name: commit for run in runs for name, commit in run.commits.items()}
    assert [p.name for p in path.parent.iterdir()] == ["board.toml"]


def test_a_board_file_that_another_run_has_changed_is_not_contradicted(tmp_path):
    path = tmp_path / "board.toml"
    first = boardfile.Contribution("mine", {"demo": Protocol()}, ["rouge-l"], 1, {"model a/b main": "0" * 40})
    boardfile.extend(path, first)
    before = path.read_text()
    with pytest.raises(UsageError, match="the board fixes steps"):
        boardfile.extend(path, replace(first, protocols={"demo": Protocol(steps=7)}))
    with pytest.raises(UsageError, match="the board pins model a/b main to 000"):
        boardfile.extend(path, replace(first, commits={"model a/b main": "1" * 40}))
    assert path.read_text() == before
    boardfile.extend(path, replace(first, protocols={"demo": Protocol(steps=7)}, afresh=True))
    assert "steps = 7" in path.read_text()


# ------------------------------------------------------------------------------------------------------------ cells


def test_reference_rows_always_run():
    rows = planned(methods="kd", seeds=2)
    assert {row for row, seed in rows if seed == 0} == {"teacher", "student", "sft-init", "kd"}
    assert {row for row, seed in rows if seed == 1} == {"student", "sft-init", "kd"}
    assert {row for row, _ in planned(methods="none")} == {"teacher", "student", "sft-init"}


def test_all_methods_start_from_the_same_checkpoint_and_share_text_and_pairs():
    cells = planned()
    starts = {cells[row, 0].checkpoint.inputs["model"].key for row in ("sft", "seqkd", "kd", "plad", "dpo")}
    assert starts == {cells["sft-init", 0].checkpoint.key}
    assert len({cells[row, 0].checkpoint.inputs["data"].key for row in ("sft", "seqkd", "kd", "plad")}) == 1
    assert cells["plad", 0].checkpoint.inputs["pairs"].key == cells["dpo", 0].checkpoint.inputs["pairs"].key
    assert (
        cells["plad", 0].checkpoint.inputs["pairs"].inputs["teach"].key
        == cells["seqkd", 0].checkpoint.inputs["teach"].key
    )
    conditions = [
        {k: v for k, v in cells[r, 0].checkpoint.spec.items() if k != "method"} for r in ("sft", "kd", "plad")
    ]
    assert conditions[0] == conditions[1] == conditions[2]


def test_a_method_rests_on_what_it_needs_and_on_nothing_else():
    cells = planned()
    used = {row: {stage.name for stage in cells[row, 0].checkpoint.walk()} for row, _ in cells}
    warm = {"data", "tokenizer", "init", "sft-init"}
    assert used["sft"] == warm | {"distill"}
    assert used["seqkd"] == warm | {"distill", "teacher", "teach"}
    assert used["kd"] == warm | {"distill", "teacher"}
    assert used["plad"] == warm | {"distill", "teacher", "teach", "sample", "pairs"}
    assert used["dpo"] == used["plad"] | {"reference"}


def test_scores_are_in_the_key_of_pairs_only_where_they_are_read():
    cells = planned()
    plain, scored = (cells[row, 0].checkpoint.inputs["pairs"] for row in ("plad", "plad[loss=margin]"))
    assert "scorer" not in plain.spec
    assert scored.spec["scorer"]["name"] == "rouge-l"
    assert plain.key != scored.key


def test_ids_are_unique_and_safe_as_paths():
    methods = "kd[temperature=1|2|3],plad[scorer='rouge-l[use_stemmer=false]',loss=margin]"
    cells = planned(methods=methods, seeds=2)
    ids = [cell.id for cell in cells.values()]
    assert len(set(ids)) == len(ids)
    assert all(set(id_) <= set("abcdefghijklmnopqrstuvwxyz0123456789./=_+-") and ".." not in id_ for id_ in ids)


@pytest.mark.parametrize("text", ["../../etc", "a/b", "..", "A", "", "x" * 300, "naïve", "a b", "a[b=1]"])
def test_a_slug_is_one_harmless_part_of_a_path(text):
    made = slug(text)
    assert made
    assert "/" not in made
    assert made.strip(".") == made
    assert len(made) <= 90
    assert made == slug(text)


def test_slugs_differ_where_texts_do():
    texts = ["a b", "a-b", "A b", "A-b", "a[b=1]", "a[b=2]", "a[b=1,c=2]", "ab", "x" * 100, "x" * 101]
    assert len({slug(t) for t in texts}) == len(texts)


def test_what_cannot_run_is_skipped_with_its_reason():
    cells = planned(student="scratch[vocabulary=512]", teacher="small")
    assert cells["seqkd", 0].skip == ""
    assert cells["kd", 0].skip == (
        "kd compares logits token by token, but the student's tokenizer has 512 tokens and the teacher's 768"
    )
    assert cells["kd", 0].scores == {}
    assert planned(student="scratch[vocabulary=512]", teacher="small", methods="uld")["uld", 0].skip == ""


def test_a_teacher_that_gives_too_little_is_found_before_any_work():
    from plad_bench.contract.enums import Access

    cell = planned()["kd", 0]
    poor = replace(cell.teacher.component, provides=frozenset({Access.TEXT}))
    teacher = replace(cell.teacher, registered=replace(cell.teacher.registered, component=poor))
    assert matrix.skip_reason(replace(cell, teacher=teacher)) == "kd needs the teacher's logits; small provides text"
    assert matrix.skip_reason(replace(planned()["plad", 0], teacher=teacher)) == ""


def test_a_student_without_default_teacher_needs_one_named():
    with pytest.raises(UsageError, match="no default teacher"):
        planned(student="hf[id=a/b]")


def test_plugin_that_fails_to_say_whether_a_cell_can_run_skips_none(tmp_path, caplog):
    file = tmp_path / "moody.py"
    file.write_text(
        "from plad_bench import hookimpl\n\n\n"
        "@hookimpl\ndef plad_bench_cell_skip(cell):\n"
        "    if cell.row == 'kd':\n        raise RuntimeError('no idea')\n"
        "    return 'not today' if cell.row == 'sft' else None\n"
    )
    registry = Registry.load([file])
    run = spec.build(registry, task="demo", methods="sft,kd,seqkd")
    skips = {c.row: c.skip for c in matrix.cells(run, registry)}
    assert skips["sft"] == "not today"
    assert skips["kd"] == skips["seqkd"] == ""
    assert "moody" in caplog.text
    assert "no idea" in caplog.text


def test_the_teacher_that_ships_with_the_demo_is_the_one_that_a_run_with_no_options_needs():
    registry = tiny.registry()
    run = spec.build(registry, task="demo", methods="none")
    teacher = next(cell for cell in matrix.cells(run, registry) if cell.row == "teacher").checkpoint
    shipped = run.tasks[0].component.artifacts()
    artifact = Store(Path("nowhere"), [shipped]).find(teacher.key)
    assert artifact is not None, "the teacher's key has changed: python -m plad_bench_plugins.demo.remake"
    assert artifact.manifest["document"] == teacher.document
    assert (artifact.path / "curve.jsonl").is_file()
    scores = json.loads((shipped / "scores.json").read_text())["scores"]
    assert scores["missing-slots"]["value"] < 0.02
