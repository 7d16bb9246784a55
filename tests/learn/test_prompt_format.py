"""The way of a prompt format: parameters, the key of a stage, the directory of a model, the plan, a page."""

from __future__ import annotations

import json

import numpy as np
import pytest
import synthetic
import tiny
from click.testing import CliRunner
from shapes import shown

from plad_bench.cli.main import cli
from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.contract.models import HubModel, PromptFormat
from plad_bench.contract.protocol import Protocol
from plad_bench.execute.stages import init
from plad_bench.leaderboard.loading import load
from plad_bench.learn import models
from plad_bench.learn.sequences import Encoder
from plad_bench.plan import requirements
from plad_bench.plan.chosen import choose
from plad_bench.plan.stages import Plan
from plad_bench.render import markdown

TURNS = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}model:{% endif %}"
)


def selected(text, kind="student"):
    return choose(tiny.registry(), kind, text)[0]


def init_of(text):
    """The stage that makes a student."""
    task, teacher, sft = selected("demo", "task"), selected("small", "teacher"), selected("sft", "method")
    return Plan(task, teacher, selected(text), Protocol(), 0, 1, sft).init


def test_a_prompt_format_is_given_as_parameters_and_keyed(tmp_path):
    tiny.publish(tmp_path / "m", tiny.llama(), tiny.tokenizer())
    (tmp_path / "turns.jinja").write_text("{{ messages[0].content }}")
    texts = ("", ",system=a tower", ",instruction='walk, {prompt}'", ",thinking=keep", ",date=2025-01-31",
             ",template=none", f",template_file={tmp_path / 'turns.jinja'}")  # fmt: skip
    stages = [init_of(f"hf[path={tmp_path / 'm'}{text}]") for text in texts]
    assert len({stage.key for stage in stages}) == len(texts)
    said = [{k: v for k, v in stage.spec["prompts"].items() if k != "version"} for stage in stages]
    assert said == [
        {},
        {"system": "a tower"},
        {"instruction": "walk, {prompt}"},
        {"thinking": "keep"},
        {"date": "2025-01-31"},
        {"template": "none"},
        {"template": "{{ messages[0].content }}"},
    ]
    for teacher in ("hf[id=a/b,system=x]", "llama-8b[system=x]", "vllm[id=a/b,system=x]"):
        chosen = selected(teacher, "teacher")
        assert chosen.component.model(chosen.params).prompts.system == "x"


def test_a_prompt_format_that_is_usual_leaves_records_as_they_were():
    assert selected("hf[id=a/b]").params.public() == {"id": "a/b", "path": None, "revision": None}
    assert selected("hf[id=a/b,system=x]").params.public()["system"] == "x"


@pytest.mark.parametrize("text", ["template=other", "date=2025-13-01", "date=today", "template=none,template_file=x"])
def test_a_prompt_format_that_is_none_is_refused(text):
    with pytest.raises(UsageError):
        selected(f"hf[id=a/b,{text}]")


def test_a_missing_chat_template_is_found_before_any_work(tmp_path):
    tiny.publish(tmp_path, tiny.llama(), tiny.tokenizer())
    with pytest.raises(MissingError, match="no chat template"):
        requirements._check_model(HubModel(id=str(tmp_path), prompts=PromptFormat(template="chat")), "hf")
    tiny.publish(tmp_path, tiny.llama(), tiny.tokenizer(template="{{ messages }}"))
    requirements._check_model(HubModel(id=str(tmp_path), prompts=PromptFormat(template="chat")), "hf")


def test_a_model_directory_hands_its_prompt_format_on(tmp_path):
    tiny.publish(tmp_path / "m", tiny.llama(), tiny.tokenizer())
    made = tiny.context(
        tmp_path,
        spec={
            "prompts": {
                "version": 1,
                "system": "a tower",
                "template": "{{ messages[0].content }} {{ messages[1].content }}:",
            }
        },
        job={"id": str(tmp_path / "m"), "revision": None},
    )
    init.run(made)
    model, tokenizer = models.load(made.out / "model", "cpu", "float32")
    models.save(model, tokenizer, tmp_path / "trained")
    again, kept = models.load(tmp_path / "trained", "cpu", "float32")
    assert shown(models.encoder(again, kept), models.encoder(again, kept).prompt("red")) == "a tower red:"


def test_plan_shows_what_models_are_given(tmp_path):
    tiny.publish(tmp_path / "m", tiny.llama(), tiny.tokenizer(template=TURNS))
    rows = [{"prompt": tiny.sentence(i, 9), "response": "red"} for i in range(40)]
    (tmp_path / "d.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "t.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    model = f"hf[path={tmp_path / 'm'}"
    options = ["plan", "--task", f"jsonl[path={tmp_path / 'd.jsonl'}]", "--student", f"{model},instruction=walk]",
               "--teacher", f"{model},template=none]", "--methods", "seqkd",
               "--board", "b", "--boards-dir", str(tmp_path / "b"), "--store", str(tmp_path / "s"), "--gpus", "none",
               "--max-new-tokens", "8", "--show-prompt"]  # fmt: skip
    plain = CliRunner().invoke(cli, options)
    assert plain.exit_code == 0, plain.output
    first = next(row["prompt"] for row in rows if row["prompt"] in plain.stdout)
    assert f"  | user: walk\n  | \n  | {first}\n  | model:" in plain.stdout
    other = [*options, "--json", "--teacher", f"recorded[path={tmp_path / 't.jsonl'}]"]
    (teacher, student), (asked, _) = (
        json.loads(CliRunner().invoke(cli, given).stdout)["prompts"] for given in ([*options, "--json"], other)
    )
    assert (teacher["role"], teacher["text"], teacher["template"]) == ("teacher", f"<s>{first}\n", "none")
    of = Encoder(tiny.tokenizer(template=TURNS), 64)
    assert (student["role"], student["ids"], student["end"]) == ("student", of.prompt(f"walk\n\n{first}"), "</s>")
    assert "ids" not in asked
    assert "its own template" in asked["reason"]


def test_a_page_says_what_happens_to_thinking_text(tmp_path):
    values = {"rouge-l": (np.linspace(0, 1, 8), "higher", "%")}
    for method, how in (("teacher", "strip"), ("kd", "off")):
        data, scores = synthetic.record(method, columns=values)
        data["provenance"]["notes"] = {"generate": {"prompts": {"thinking": how}}}
        synthetic.put(tmp_path / "b", data, scores)
    text = markdown.render(load(tmp_path / "b"))
    assert "teacher: thinking text removed from the responses" in text
    assert "student: thinking mode off" in text
