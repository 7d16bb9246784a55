"""The tokens that a chat template adds to a prompt are part of the estimates."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from plad_bench.plan import template_length

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}</{{ m.role }}>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% if not enable_thinking %}<think></think>{% endif %}{% endif %}"
)


@pytest.fixture
def model(tmp_path):
    """The init stage of a published model with settings of its tokenizer and a prompt format."""

    def make(name, settings=None, files=(), **prompts):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "tokenizer_config.json").write_text(json.dumps(settings or {}))
        for file, text in dict(files).items():
            (directory / file).write_text(text)
        spec = {"prompts": {"version": 1, **prompts}}
        return SimpleNamespace(inputs={}, spec=spec, job={"id": str(directory), "revision": None})

    return make


def test_the_text_around_a_prompt(model):
    settings = {"bos_token": {"content": "<s>"}, "chat_template": TEMPLATE}
    around = template_length.added(model("a", settings))
    assert around == "<s><user></user><assistant><think></think>"
    thinking = model("b", settings, system="Be brief.", instruction="Say it:", thinking="keep")
    assert template_length.added(thinking) == "<s><system>Be brief.</system><user>Say it:\n\n</user><assistant>"


def test_a_template_has_several_places(model):
    listed = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "yes"}]
    assert template_length.added(model("a", {"chat_template": listed})) == "yes"
    assert template_length.added(model("b", {"chat_template": "old"}, {"chat_template.jinja": "new"})) == "new"
    assert template_length.added(model("c", {"chat_template": "own"}, template="given")) == "given"
    dated = model("d", {"chat_template": "{{ strftime_now('%d %b %Y') }}"})
    assert template_length.added(dated) == "26 Jul 2024"


@pytest.mark.parametrize("template", ["{{ raise_exception('no') }}", "{% for %}", "{{ messages[5].content }}", ""])
def test_a_template_that_fails_or_is_absent_adds_its_instruction_alone(model, template):
    assert template_length.added(model("a", {"chat_template": template}, instruction="Say it:")) == "Say it:\n\n"


def test_no_template_and_no_files(model):
    settings = {"chat_template": TEMPLATE}
    assert template_length.added(model("a", settings, template="none", instruction="Say: {prompt}!")) == "Say: !"
    absent = SimpleNamespace(inputs={}, spec={}, job={"id": "nobody/absent-model", "revision": "0" * 40})
    assert not template_length.added(absent)
    assert not template_length.added(SimpleNamespace(inputs={"tokenizer": None}, spec={}, job={}))
