"""Students and teachers: every name gives a model, every default teacher exists, wrong parameters are refused."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from pydantic import ValidationError

from plad_bench import Access, HubModel, MissingError, ScratchModel, Training, UsageError
from plad_bench_plugins import plad_bench_students, plad_bench_teachers

STUDENTS = {record.name: record for record in plad_bench_students()}
TEACHERS = {record.name: record for record in plad_bench_teachers()}
NEEDS_PARAMS = {"hf": {"id": "org/name"}, "vllm": {"id": "org/name"}, "pruned": {"id": "org/name"}}
EVERY = [
    pytest.param(record, id=f"{kind}-{name}")
    for kind, records in (("student", STUDENTS), ("teacher", TEACHERS))
    for name, record in records.items()
    if record.model is not None
]


def model_of(record, **params):
    return record.model(record.params(**params))


@pytest.mark.parametrize("hook", [plad_bench_students, plad_bench_teachers])
def test_names_are_unique(hook):
    assert [name for name, count in Counter(record.name for record in hook()).items() if count > 1] == []


@pytest.mark.parametrize("record", EVERY)
def test_every_name_gives_its_model(record):
    model = model_of(record, **NEEDS_PARAMS.get(record.name, {}))
    if isinstance(model, HubModel):
        assert model.id.count("/") == 1
        assert model.revision is None
        assert model_of(record, revision="main", **NEEDS_PARAMS.get(record.name, {})).revision == "main"


def test_models_are_who_they_say():
    ids = {
        name: model_of(r).id
        for name, r in (STUDENTS | TEACHERS).items()
        if "revision" in r.params.model_fields and name not in NEEDS_PARAMS
    }
    assert ids["llama-1b"] == "meta-llama/Llama-3.2-1B"
    assert ids["llama-8b"] == "meta-llama/Llama-3.1-8B"
    assert len(set(ids.values())) == len(ids)
    for name, hub_id in ids.items():
        assert all(part in hub_id.lower().replace("llama-2", "llama2") for part in name.split("-"))


def test_the_tiny_student_and_the_small_teacher():
    tiny, small = STUDENTS["tiny"], TEACHERS["small"]
    shared = {"heads": 4, "vocabulary": 768, "context": 256}
    assert model_of(tiny) == ScratchModel(layers=2, width=64, **shared)
    assert model_of(small) == ScratchModel(layers=4, width=128, **shared)
    assert small.training(small.params()) == Training(steps=1500, lr=2e-3)
    assert small.training(small.params(steps=100)) == Training(steps=100, lr=2e-3)
    assert tiny.teacher == "small"


def test_scratch_models_take_any_size():
    size = {"layers": 1, "width": 48, "heads": 3, "vocabulary": 300, "context": 64}
    assert model_of(STUDENTS["scratch"], **size) == model_of(TEACHERS["scratch"], **size) == ScratchModel(**size)


@pytest.mark.parametrize("wrong", [{"width": 66}, {"width": 4}, {"layers": 0}, {"vocabulary": 256}, {"depth": 2}])
def test_impossible_sizes_are_refused(wrong):
    for record in (STUDENTS["scratch"], TEACHERS["scratch"]):
        with pytest.raises(ValidationError):
            record.params(**wrong)


def test_every_default_teacher_exists():
    assert {s.teacher for s in STUDENTS.values() if s.teacher} <= TEACHERS.keys()
    assert [name for name, s in STUDENTS.items() if not s.teacher] == ["hf", "pruned"]
    assert STUDENTS["llama-1b"].teacher == "llama-8b"
    assert all(name != s.teacher for name, s in STUDENTS.items())


@pytest.mark.parametrize("name", [name for name, t in TEACHERS.items() if t.model is not None and not t.backend])
def test_a_local_model_provides_everything_it_computes(name):
    assert TEACHERS[name].provides >= {Access.TEXT, Access.TOKEN_LOGPROBS, Access.TOP_K, Access.LOGITS}


def test_a_hub_teacher_is_used_as_it_is_unless_steps_are_given():
    for name, params in (("llama-8b", {}), ("hf", {"id": "org/name"})):
        teacher = TEACHERS[name]
        assert teacher.training(teacher.params(**params)) is None
        assert teacher.training(teacher.params(steps=9, lr=1e-4, **params)) == Training(steps=9, lr=1e-4)


@pytest.mark.parametrize("record", [STUDENTS["hf"], TEACHERS["hf"]], ids=["student", "teacher"])
class TestHF:
    """`hf` names one place: a hub id or a directory."""

    def test_a_hub_id(self, record):
        assert model_of(record, id="org/a.b-c", revision="v1") == HubModel(id="org/a.b-c", revision="v1")
        assert model_of(record, id="gpt2") == HubModel(id="gpt2")

    def test_a_directory_is_keyed_by_its_content_and_not_by_its_place(self, record, tmp_path):
        for name, weights in (("a", "1"), ("b", "1"), ("c", "2")):
            (tmp_path / name).mkdir()
            (tmp_path / name / "weights").write_text(weights)
        a, b, c = (record.params(path=tmp_path / name) for name in "abc")
        assert record.model(a) == HubModel(id=str((tmp_path / "a").resolve()))
        assert a.public() == b.public() != c.public()
        assert str(tmp_path) not in str(a.public())

    def test_a_relative_directory_becomes_absolute(self, record, tmp_path, monkeypatch):
        (tmp_path / "m").mkdir()
        monkeypatch.chdir(tmp_path)
        assert Path(model_of(record, path="m").id) == (tmp_path / "m").resolve()

    def test_exactly_one_place(self, record, tmp_path):
        for params in ({}, {"id": "org/name", "path": tmp_path}):
            with pytest.raises(ValidationError, match=r"either id=ORG/NAME .* or path=DIR"):
                record.params(**params)
        with pytest.raises(ValidationError, match="revision needs a hub id"):
            record.params(path=tmp_path, revision="main")

    @pytest.mark.parametrize("text", ["/models/a", "./a", "../a", "a/b/c", "a b", "org/"])
    def test_what_is_no_hub_id(self, record, text):
        with pytest.raises(ValidationError):
            record.params(id=text)

    def test_a_missing_directory(self, record, tmp_path):
        with pytest.raises(MissingError, match="no directory"):
            model_of(record, path=tmp_path / "absent")

    def test_a_hub_id_that_a_directory_would_shadow(self, record, tmp_path, monkeypatch):
        (tmp_path / "org" / "name").mkdir(parents=True)
        monkeypatch.chdir(tmp_path)
        with pytest.raises(UsageError, match="also a local directory"):
            model_of(record, id="org/name")
