"""Files of published models: tokens without an embedding, generation settings, what a tokenizer was saved with."""

from __future__ import annotations

import pytest
import tiny
from shapes import TEXT, shapes

from plad_bench.contract.errors import MissingError, StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.models import HubModel
from plad_bench.learn import models
from plad_bench.learn.generation import Decoding, generate
from plad_bench.learn.sequences import Encoder
from plad_bench.plan import requirements


def test_a_padding_token_without_an_embedding_is_replaced(tmp_path):
    made = tiny.tokenizer(pad="<a new one>")
    assert made.pad_token_id == 300
    model = tiny.llama()
    model.config.pad_token_id = 300
    tiny.publish(tmp_path, model, made)
    loaded, tokenizer = models.load(tmp_path, "cpu", "float32")
    assert (tokenizer.pad_token_id, loaded.config.pad_token_id) == (1, None)
    assert len(generate(loaded, tokenizer, ["red", "red house of the tower"], Decoding(max_new_tokens=2))) == 2


def test_an_end_token_without_an_embedding_is_refused_before_any_work(tmp_path):
    made = tiny.tokenizer()
    made.add_special_tokens({"eos_token": "<|end|>"})
    tiny.publish(tmp_path, tiny.llama(), made)
    with pytest.raises(MissingError, match=r"<\|end\|>.* 300, .* 300 tokens"):
        requirements._check_model(HubModel(id=str(tmp_path)), "hf")
    with pytest.raises(MissingError, match="end token"):
        models.load(tmp_path, "cpu", "float32")


def test_text_with_a_token_that_has_no_embedding_is_refused():
    made = tiny.tokenizer()
    made.add_tokens(["garden wall"])
    of = Encoder(made, 64, rows=300)
    assert of.prompt("garden")
    with pytest.raises(StageError, match="garden wall"):
        of.prompt("a garden wall")


def test_published_generation_settings_reach_nobody(tmp_path):
    template = "{{ messages[0].content }}{% if messages|length > 1 %}{{ messages[1].content }}<s>{% endif %}"
    made = tiny.tokenizer(template=template)
    settings = {"do_sample": True, "repetition_penalty": 5.0, "num_beams": 4, "suppress_tokens": [7]}
    tiny.publish(tmp_path, tiny.llama(), made, eos_token_id=[1, 9], **settings)
    model, _ = models.load(tmp_path, "cpu", "float32")
    assert model.generation_config.to_diff_dict().keys() - {"transformers_version", "_from_model_config"} == {
        "bos_token_id", "eos_token_id", "pad_token_id"
    }  # fmt: skip
    assert model.generation_config.eos_token_id == [0, 1, 9]  # the template's, the tokenizer's, and what is published


@shapes
def test_a_tokenizer_saved_with_truncation_and_padding_is_the_same(shape, tmp_path):
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer

    shape.made().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    saved = Tokenizer.from_file(str(file))
    saved.enable_truncation(4)
    saved.enable_padding(length=16)  # by a token that is added for it
    saved.save(str(file))
    of, usual = Encoder(AutoTokenizer.from_pretrained(tmp_path), 512), Encoder(shape.made(), 512)
    assert of.hash == usual.hash
    assert of.response(Response(text=TEXT + "</s>")) == usual.response(Response(text=TEXT + "</s>"))
