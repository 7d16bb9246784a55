"""Prompts as each model wants them: turns, dates, system prompts and instructions, and thinking text."""

from __future__ import annotations

import pytest
import tiny
from shapes import SHAPES, TEXT, encoder, shapes, shown

from plad_bench.contract.errors import MissingError, StageError
from plad_bench.contract.examples import Response
from plad_bench.contract.models import PromptFormat
from plad_bench.learn import prompts
from plad_bench.learn.generation import response_of
from plad_bench.learn.sequences import Encoder

# ---------------------------------------------------------------------------------------------------- turns and dates


@shapes
def test_a_response_ends_as_the_template_ends_a_turn(shape):
    of = encoder(shape)
    (end,) = of.response(Response(text=""))
    assert of.tokenizer.convert_ids_to_tokens(end) == shape.end


@shapes
def test_a_prompt_begins_once_if_at_all(shape):
    of = encoder(shape)
    first = of.tokenizer.convert_ids_to_tokens(of.prompt(TEXT))
    if shape.begins:
        assert first[0] == shape.begins
        assert first.count(shape.begins) == 1
    elif of.tokenizer.bos_token and shape.name == "gpt-neox":
        assert of.tokenizer.bos_token not in first


def test_the_date_of_a_template_is_fixed_and_its_own(monkeypatch):
    import datetime

    from transformers.utils import chat_template_utils

    class Tomorrow(datetime.datetime):
        @classmethod
        def now(cls, tz=None):
            return super().now(tz) + datetime.timedelta(days=1)

    today = encoder(SHAPES[0]).prompt(TEXT)
    monkeypatch.setattr(chat_template_utils, "datetime", Tomorrow)
    of = encoder(SHAPES[0])
    assert of.prompt(TEXT) == today
    assert "Today Date: 26 Jul 2024" in shown(of, today)
    assert of.described()["date"] == "2024-07-26"
    other = encoder(SHAPES[0], date="2025-01-31")
    assert "Today Date: 31 Jan 2025" in shown(other, other.prompt(TEXT))
    assert "date" not in encoder(SHAPES[1]).described()


def test_a_date_that_cannot_be_fixed_is_refused():
    made = tiny.tokenizer(template="{% set form = '%d' %}{{ strftime_now(form) }}{{ messages[0].content }}")
    with pytest.raises(StageError, match="today's date"):
        Encoder(made, 64).prompt("red")


# ------------------------------------------------------------------------------------- system prompts and instructions


@shapes
def test_system_prompt_and_instruction_are_given(shape):
    of = encoder(shape, instruction="walk the garden")
    assert "walk the garden" in shown(of, of.prompt(TEXT))
    of = encoder(shape, instruction="walk {prompt} near the tower")
    assert f"walk {TEXT} near the tower" in shown(of, of.prompt(TEXT))
    of = encoder(shape, system="a great tower")
    if shape.system:
        text = shown(of, of.prompt(TEXT))
        assert text.index("a great tower") < text.index(TEXT)
        assert "You are a helpful model" not in text
    else:
        with pytest.raises(StageError, match="system") as refused:
            of.prompt(TEXT)
        assert "instruction=" in refused.value.remedy


def test_a_template_can_be_left_out_replaced_or_asked_for():
    plain = encoder(SHAPES[1], template="none")
    assert plain.prompt("red") == plain.tokenizer("red\n")["input_ids"]
    other = encoder(SHAPES[1], template="{{ messages[0].content }} ->")
    assert shown(other, other.prompt("red")) == "red ->"
    with pytest.raises(MissingError, match="no chat template"):
        encoder(SHAPES[6], template="chat")


def test_a_format_travels_with_the_tokenizer(tmp_path):
    from transformers import AutoTokenizer

    of = encoder(SHAPES[1], system="a great tower", instruction="walk", template="{{ messages }}")
    of.tokenizer.save_pretrained(tmp_path)
    again = Encoder(AutoTokenizer.from_pretrained(tmp_path), 512)
    assert again.format == PromptFormat(system="a great tower", instruction="walk")
    assert again.prompt(TEXT) == of.prompt(TEXT)


def test_what_a_model_is_given_is_described():
    of = encoder(SHAPES[1], system="a great tower")
    assert of.described() == {
        "template": "chat",
        "text": "<|im_start|>system\na great tower<|im_end|>\n<|im_start|>user\n{prompt}<|im_end|>\n"
        "<|im_start|>assistant\n",
        "ids": of.prompt("{prompt}"),
        "end": "<|im_end|>",
    }
    neox = encoder(SHAPES[6]).described()
    assert (neox["template"], neox["text"], neox["end"]) == ("none", "{prompt}\n", "<|endoftext|>")


# ------------------------------------------------------------------------------------------------------ thinking text


@pytest.mark.parametrize(
    ("thinking", "text", "answer"),
    [
        ("off", "<think>\nold\n</think>\n\nred", "red"),
        ("strip", "<think>\nold\n</think>\n\nred", "red"),
        ("strip", "<think>\nold", ""),
        ("strip", "red", "red"),
        ("keep", "<think>\nold\n</think>\n\nred", "<think>\nold\n</think>\n\nred"),
    ],
)
def test_thinking_text_is_part_of_an_answer_only_where_it_is_asked_for(thinking, text, answer):
    of = encoder(SHAPES[2], thinking=thinking)
    ids = of.tokenizer(text, add_special_tokens=False)["input_ids"]
    assert response_of(of, ids, {of.end}).text == answer
    assert shown(of, of.prompt("red")).endswith("<think>\n\n</think>\n\n") == (thinking == "off")
    assert of.described()["thinking"] == thinking


def test_thinking_that_the_template_begins_is_none_of_the_answer():
    made = SHAPES[2].made()
    made.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    prompts.apply_format(made, PromptFormat(thinking="strip"), "")
    of = Encoder(made, 512)
    for text, answer in (("old</think>red", "red"), ("old", "")):
        assert response_of(of, made(text)["input_ids"], {of.end}).text == answer


def test_text_of_a_data_set_that_spells_thinking_marks_is_no_thinking():
    of = encoder(SHAPES[2], thinking="off")
    text = "<think>old</think>red"
    assert response_of(of, of.response(Response(text=text)), {of.end}).text == text


def test_a_model_that_knows_no_thinking_says_what_it_says():
    of = encoder(SHAPES[1])
    ids = of.tokenizer("<think>old</think>red")["input_ids"]
    assert response_of(of, ids, {of.end}).text == "<think>old</think>red"
    assert "thinking" not in of.described()
