"""Models in GGUF files: what planning reads of them, and that they load and save like any other."""

from __future__ import annotations

import shutil

import gguf_files
import pytest
import tiny
import torch

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import MissingError
from plad_bench.contract.models import HubModel
from plad_bench.learn import models
from plad_bench.plan import compatibility, matrix, published, requirements, spec

pytest.importorskip("gguf", reason="needs the extra gguf")

TEMPLATE = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A model as a GGUF file and as a directory."""
    directory = tmp_path_factory.mktemp("gguf")
    model, tokenizer = tiny.llama(seed=1, num_hidden_layers=3), tiny.tokenizer()
    gguf_files.write(directory / "model.gguf", model, tokenizer)
    gguf_files.write(directory / "chat.gguf", model, tiny.tokenizer(template=TEMPLATE))
    models.save(model, tokenizer, directory / "model")
    return directory


def initialised(file, directory, **more):
    return tiny.context(
        directory, spec={"gguf": "sha256:0", "prompts": {"version": 1}, **more}, job={"id": str(file), "revision": None}
    )


def loaded(context):
    tiny.stage_function("init")(context)
    return models.load(context.out / "model", "cpu", "float32")


def cells(student, teacher, **more):
    given = {"task": "demo", "methods": "kd", "metrics": "rouge-l", "overrides": {}}
    built = spec.build(tiny.registry(), student=student, teacher=teacher, **given, **more)
    return {cell.row: cell for cell in matrix.cells(built, tiny.registry())}


def test_the_header_says_what_config_json_does(place):
    header, model = gguf.header(place / "model.gguf"), tiny.llama(num_hidden_layers=3)
    assert header.architecture == "llama"
    assert header.parameters == sum(p.numel() for p in model.parameters())
    assert header.config == {name: getattr(model.config, name) for name in header.config if name != "head_dim"}
    assert header.config.keys() >= {"num_hidden_layers", "hidden_size", "vocab_size", "max_position_embeddings"}
    assert header.tokens == tiny.tokenizer().get_vocab()
    assert header.tokens.keys() - header.text_tokens.keys() == {"<s>", "</s>", "<pad>"}


def test_the_stage_makes_a_directory_of_the_same_model(place, tmp_path):
    model, tokenizer = loaded(initialised(place / "model.gguf", tmp_path))
    whole, its = models.load(place / "model", "cpu", "float32")
    ids = torch.tensor([its("the old river near a tower")["input_ids"]])
    assert tokenizer(" the old river")["input_ids"] == its(" the old river")["input_ids"]
    assert hub.lacking(tmp_path / "stage" / "out" / "model", "") == ()
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], tensor, msg=name)
    made = [m.generate(ids, max_new_tokens=8, do_sample=False).tolist() for m in (model, whole)]
    assert made[0] == made[1]


def test_a_file_is_pruned_like_a_directory(place, tmp_path):
    context = initialised(place / "model.gguf", tmp_path, layers="0+2")
    model, _ = loaded(context)
    assert model.config.num_hidden_layers == 2
    assert context.notes["layers"] == [0, 2]
    assert context.counts["parameters"] == sum(p.numel() for p in model.parameters())


def test_a_file_is_keyed_by_its_content_and_loaded_from_its_place(place, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(place / "model.gguf", tmp_path / "elsewhere")
    one, two, chat = (
        cells(f"hf[path={file}]", f"hf[path={file}]")["kd"]
        for file in (place / "model.gguf", tmp_path / "elsewhere" / "model.gguf", place / "chat.gguf")
    )
    assert one.plan.init.key == two.plan.init.key != chat.plan.init.key
    assert "gguf" in one.plan.init.spec
    assert str(tmp_path) not in str(one.plan.init.document)
    requirements.check([one, chat])


def test_planning_reads_the_file(place):
    cell = cells(f"hf[path={place / 'model.gguf'}]", f"hf[path={place / 'chat.gguf'}]")["kd"]
    assert cell.skip == ""
    assert compatibility.config_of(cell.plan.init)["max_position_embeddings"] == 128
    plain, chat = (HubModel(id=str(place / name)) for name in ("model.gguf", "chat.gguf"))
    assert published.parameters(plain) == published.parameters(HubModel(id=str(place / "model")))
    assert not published.is_instruct(plain)
    assert published.is_instruct(chat)


def test_vocabularies_are_compared_by_their_text(place, tmp_path):
    other = tiny.tokenizer()
    tokens = other.convert_ids_to_tokens(range(300))
    tokens[50], tokens[60] = tokens[60], tokens[50]
    other.convert_ids_to_tokens = lambda ids: [tokens[i] for i in ids]
    gguf_files.write(tmp_path / "other.gguf", tiny.llama(), other)
    mine, directory, theirs = (
        HubModel(id=str(p)) for p in (place / "model.gguf", place / "model", tmp_path / "other.gguf")
    )
    assert not compatibility.tokenizers_differ(mine, directory)
    assert compatibility.tokenizers_differ(theirs, directory)
    assert compatibility.tokenizers_differ(mine, theirs)


@pytest.mark.parametrize("kept", [0, 3, 30, 4000])
def test_a_broken_file_is_named(place, tmp_path, kept):
    broken = tmp_path / "broken.gguf"
    broken.write_bytes((place / "model.gguf").read_bytes()[:kept])
    with pytest.raises(MissingError, match=r"broken.gguf is incomplete or not a GGUF file"):
        gguf.check(broken, "student")


def test_what_cannot_be_loaded_says_what_to_do(place, tmp_path, monkeypatch):
    file = gguf_files.write(tmp_path / "rwkv.gguf", tiny.llama(), tiny.tokenizer(), "rwkv7")
    with pytest.raises(MissingError, match="does not load GGUF files of the architecture 'rwkv7'") as refused:
        requirements.check(cells(f"hf[path={file}]", f"hf[path={place / 'chat.gguf'}]").values())
    assert "Hugging Face directory" in refused.value.remedy
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="needs the package gguf") as refused:
        gguf.check(place / "model.gguf", "student")
    assert "plad-bench[gguf]" in refused.value.remedy
