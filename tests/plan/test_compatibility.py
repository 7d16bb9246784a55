"""Models that do not fit are found while planning, as far as their files are here; their cells are skipped."""

from __future__ import annotations

import json

import pytest
import tiny
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import MissingError, NothingSelectedError
from plad_bench.execute.stages import files
from plad_bench.learn import models
from plad_bench.plan import compatibility, matrix, requirements, spec


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Directories of models: a student, a GPT-2, one whose tokenizer has another token, and one of a short context."""
    directory = tmp_path_factory.mktemp("models")
    other = tiny.tokenizer()
    other.add_tokens(["<extra>"])
    models.save(tiny.llama(seed=1), tiny.tokenizer(), directory / "student")
    models.save(tiny.gpt2(seed=2), tiny.tokenizer(), directory / "gpt2")
    models.save(tiny.llama(seed=2, vocabulary=301), other, directory / "other")
    models.save(tiny.llama(seed=3, max_position_embeddings=40), tiny.tokenizer(), directory / "short")
    return directory


def cells(student, teacher, methods="sft,seqkd,kd", **overrides):
    built = spec.build(
        tiny.registry(),
        task="demo",
        methods=methods,
        student=f"hf[path={student}]",
        teacher=f"hf[path={teacher}]",
        metrics="rouge-l",
        overrides={"demo": overrides},
    )
    return {cell.row: cell for cell in matrix.cells(built, tiny.registry())}


def nowhere(key):
    return None


def test_methods_on_logits_are_skipped_where_the_tokenizers_differ(place):
    for teacher, reason in (("gpt2", ""), ("student", ""), ("other", "student and teacher have different tokenizers")):
        found = cells(place / "student", place / teacher)
        assert found["seqkd"].skip == ""
        assert found["kd"].skip == (reason and f"kd compares logits token by token, but {reason}")


def test_tokenizers_whose_files_differ_in_words_alone_are_the_same(place, tmp_path):
    models.save(tiny.llama(seed=1), tiny.tokenizer(), tmp_path / "spaced")
    file = tmp_path / "spaced" / "tokenizer.json"
    file.write_text(json.dumps(json.loads(file.read_text()), indent=7))
    assert cells(place / "student", tmp_path / "spaced")["kd"].skip == ""
    file.unlink()  # a tokenizer in another format: nobody can tell yet
    assert cells(place / "student", tmp_path / "spaced")["kd"].skip == ""


def test_a_context_that_new_tokens_fill_concerns_whoever_generates_with_that_model(place):
    found = cells(place / "student", place / "short", max_new_tokens=40)
    filled = "short has a context of 40 tokens, too short for 40 new tokens"
    assert {row: compatibility.no_room(cell, nowhere) for row, cell in found.items()} == {
        "teacher": filled,
        "seqkd": filled,
        **dict.fromkeys(["student", "sft-init", "sft", "kd"], ""),
    }
    reading = cells(place / "student", place / "short", "gkd", max_new_tokens=40)["gkd"]
    assert compatibility.no_room(reading, nowhere) == filled  # the teacher reads what the student says
    found = cells(place / "gpt2", place / "student", max_new_tokens=128)
    assert (
        compatibility.no_room(found["sft"], nowhere) == "gpt2 has a context of 128 tokens, too short for 128 new tokens"
    )


def test_prompts_longer_than_the_context_are_counted_when_the_data_is_there(place, tmp_path):
    texts = ["red house", "the old river " * 30, "a" * 25]
    for split in ("train", "test"):
        prompts = [files.Prompt(id=str(i), split=split, prompt=t, references=(), meta={}) for i, t in enumerate(texts)]
        files.write_prompts(tmp_path, prompts, [split])
    found = cells(place / "student", place / "short", max_new_tokens=20)
    data = found["seqkd"].plan.data.key
    reasons = {
        row: compatibility.no_room(cell, lambda key: tmp_path if key == data else None) for row, cell in found.items()
    }
    leaves = "20 tokens, all that short's context of 40 tokens leaves for prompts with 20 new tokens"
    assert reasons["teacher"].endswith(f"test prompts are longer than {leaves}")
    assert reasons["seqkd"].endswith(f"train prompts are longer than {leaves}")
    assert reasons["student"].startswith("1 of 3 test prompts are longer than 108 tokens")
    limited = cells(place / "student", place / "short", max_new_tokens=20, limit=1)["teacher"]
    assert compatibility.no_room(limited, lambda key: tmp_path if key == limited.plan.data.key else None) == ""


def test_a_tokenizer_that_cuts_texts_hides_no_prompt_that_is_too_long(place, tmp_path):
    from tokenizers import Tokenizer

    models.save(tiny.llama(seed=3, max_position_embeddings=40), tiny.tokenizer(), tmp_path / "cutting")
    file = tmp_path / "cutting" / "tokenizer.json"
    cutting = Tokenizer.from_file(str(file))
    cutting.enable_truncation(8)
    cutting.save(str(file))
    prompt = files.Prompt(id="0", split="test", prompt="the old river " * 30, references=(), meta={})
    files.write_prompts(tmp_path, [prompt], ["test"])
    found = cells(tmp_path / "cutting", place / "student", max_new_tokens=20)["student"]
    assert compatibility.no_room(found, lambda key: tmp_path if key == found.plan.data.key else None).startswith(
        "1 of 1 test prompts are longer than 20 tokens"
    )


def test_a_model_from_scratch_has_a_context_too():
    built = spec.build(
        tiny.registry(),
        task="demo",
        methods="gkd",
        student="tiny[context=64]",
        overrides={"demo": {"max_new_tokens": 64}},
    )
    for cell in matrix.cells(built, tiny.registry()):
        filled = "the model from scratch has a context of 64 tokens, too short for 64 new tokens"
        assert compatibility.no_room(cell, nowhere) == ("" if cell.row == "teacher" else filled)


def damaged(place, tmp_path, damage):
    """A copy of the student with something wrong."""
    models.save(tiny.llama(seed=1), tiny.tokenizer(), tmp_path / "model")
    damage(tmp_path / "model")
    return tmp_path / "model"


def _without_end(directory):
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": None}))


def _with_index(directory):
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index))
    (directory / "model.safetensors").rename(directory / "model-1.safetensors")


def _edit(directory, **values):
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | values))


def _weights(directory):
    return directory / "model.safetensors"


def _dangling(directory):
    _weights(directory).unlink()
    _weights(directory).symlink_to("nowhere")


_INDEX = "model.safetensors.index.json"
DAMAGE = {
    "no configuration": (lambda d: (d / "config.json").unlink(), "model has no config.json"),
    "no weights": (lambda d: (d / "model.safetensors").unlink(), "model has no safetensors file"),
    "a link to nowhere": (_dangling, "model.safetensors cannot be read: No such file"),
    "a missing shard": (_with_index, "model-2.safetensors is missing"),
    "no tokenizer": (lambda d: [p.unlink() for p in d.glob("tokenizer*")], "model has no tokenizer"),
    "no end token": (_without_end, "has no end token"),
    "half an index": (lambda d: (d / _INDEX).write_text('{"weight'), f"model: {_INDEX} cannot be read"),
    "a pointer of git lfs": (
        lambda d: _weights(d).write_text("version https://git-lfs\n"),
        "incomplete or not a safetensors",
    ),
    "weights cut short": (
        lambda d: _weights(d).write_bytes(_weights(d).read_bytes()[:-8]),
        "incomplete or not a safetensors",
    ),
    "half a tokenizer": (lambda d: (d / "tokenizer.json").write_text('{"model'), "tokenizer.json cannot be read"),
    "bytes": (lambda d: (d / "config.json").write_bytes(b"\xff\xfe"), "config.json cannot be read"),
    "a reward model": (
        lambda d: _edit(d, architectures=["LlamaForSequenceClassification"]),
        "is not a generative model",
    ),
    "half a file": (lambda d: (d / "config.json").write_text('{"model'), "config.json cannot be read"),
    "another kind of file": (lambda d: (d / "config.json").write_text("[]"), "has no model_type"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_directory_that_is_no_model_is_refused_before_any_work(place, tmp_path, case):
    damage, message = DAMAGE[case]
    with pytest.raises(MissingError, match=message) as caught:
        requirements.check(cells(damaged(place, tmp_path, damage), place / "gpt2", methods="gkd").values())
    assert caught.value.remedy
    assert str(tmp_path) not in caught.value.message


@pytest.mark.parametrize("part", [None, [], {"max_position_embeddings": 40}])
def test_a_configuration_within_the_configuration_may_be_nothing(place, tmp_path, part):
    """As some multimodal models publish theirs."""
    directory = damaged(place, tmp_path, lambda d: _edit(d, text_config=part))
    found = cells(directory, place / "gpt2", methods="none", max_new_tokens=64)
    requirements.check(found.values())
    assert bool(compatibility.no_room(found["student"], nowhere)) == bool(part)


UNLOADABLE = {
    "an unknown kind": (lambda d: _edit(d, model_type="nosuch"), "does not recognize this architecture"),
    "code of its own": (
        lambda d: _edit(d, model_type="nosuch", auto_map={"AutoConfig": "x.Y"}),
        "it needs code of its repository, which is never executed",
    ),
    "other shapes": (lambda d: _edit(d, hidden_size=32), "the shapes of its weights differ from its config.json"),
    "more layers": (lambda d: _edit(d, num_hidden_layers=2), r"has no weights model\.layers\.1\."),
    "no tokenizer": (lambda d: (d / "tokenizer.json").write_text("{}"), "the tokenizer of model cannot be loaded"),
}


@pytest.mark.parametrize("case", UNLOADABLE)
def test_what_only_loading_can_tell_is_a_missing_prerequisite_too(place, tmp_path, case):
    damage, message = UNLOADABLE[case]
    directory = damaged(place, tmp_path, damage)
    requirements.check(cells(directory, place / "gpt2").values())
    (tmp_path / models.POINTER).write_text(json.dumps(models.resolve(str(directory), None)))
    with pytest.raises(MissingError, match=message) as caught:
        models.load(tmp_path, "cpu", "float32")
    assert caught.value.remedy
    assert str(tmp_path) not in caught.value.message


def test_the_command_line_tells_plans_and_records_it(place, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PLAD_BENCH_STORE", str(tmp_path / "store"))

    def call(command, student, *more, expect=None):
        arguments = ["--student", f"hf[path={place / student}]", "--teacher", f"hf[path={place / 'other'}]"]
        result = CliRunner().invoke(
            cli,
            [command, "--task", "demo", *arguments, "--methods", "kd", "--max-new-tokens", "128", *more],
            standalone_mode=False,
        )
        assert isinstance(result.exception, expect) if expect else result.exception is None, result.output
        return result

    listed = json.loads(call("plan", "student", "--json").stdout)
    assert {row["state"] for row in listed["cells"]} == {"skipped"}
    assert listed["stages"] == []
    assert listed["stop"].startswith("none of the methods can run")
    call("run", "student", "--board", "mine", expect=NothingSelectedError)
    assert not list(tmp_path.rglob("cells/**/*.json"))
    assert {row["cell"].split("/")[-2]: row["reason"] for row in listed["cells"]} == {
        "teacher": "other has a context of 128 tokens, too short for 128 new tokens",
        "student": "student has a context of 128 tokens, too short for 128 new tokens",
        "sft-init": "student has a context of 128 tokens, too short for 128 new tokens",
        "kd": "kd compares logits token by token, but student and teacher have different tokenizers",
    }
    (tmp_path / "nothing").mkdir()
    result = call("plan", str(tmp_path / "nothing"))
    assert result.return_value == 3
    assert "run would stop: hf[path=nothing" in result.stderr
    assert "has no config.json" in result.stderr
    call("run", str(tmp_path / "nothing"), expect=MissingError)
