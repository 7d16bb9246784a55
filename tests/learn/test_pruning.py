"""Students made of some layers of a bigger model."""

from __future__ import annotations

import json

import pytest
import tiny
import torch

from plad_bench.contract.errors import StageError
from plad_bench.contract.models import HubModel
from plad_bench.learn import pruning
from plad_bench.learn.chunked_logits import response_logits
from plad_bench.learn.sequences import Tokens, collate
from plad_bench.plan.published import pruned_parameters

BATCH = collate([Tokens([0, 5, 6, 7], [8, 9, 1])], 2)


def deep(architecture):
    """A tiny model of five layers."""
    from transformers import AutoModelForCausalLM

    config = tiny.ARCHITECTURES[architecture]().config
    config.num_hidden_layers = 5
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def test_layers_are_evenly_spaced_with_first_and_last():
    assert pruning.chosen("5", 5) == [0, 1, 2, 3, 4]
    assert pruning.chosen("3", 5) == [0, 2, 4]
    assert pruning.chosen("12", 30) == [0, 3, 5, 8, 11, 13, 16, 18, 21, 24, 26, 29]
    assert pruning.chosen("1", 5) == [0]
    assert pruning.chosen("3+0", 5) == [0, 3]


def test_layers_of_low_influence_are_dropped():
    assert pruning.chosen("3", 5, [0.5, 0.1, 0.3, 0.2, 0.4]) == [0, 2, 4]
    assert pruning.chosen("5", 5, [0.5, 0.1, 0.3, 0.2, 0.4]) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_influence_is_one_minus_the_cosine_of_states_before_and_after_a_layer(architecture):
    model, texts = deep(architecture), ([0, 5, 6, 7], [8, 9])
    found, states = pruning.measured(model, texts).layers, []
    _, stack = pruning._stack(model)
    for part in stack:
        part.register_forward_hook(lambda _, arguments, output: states.append((arguments[0], output)))
    with torch.no_grad():
        for text in texts:
            model(input_ids=torch.tensor([text]), use_cache=False)
    for layer, value in enumerate(found):
        tokens = [
            float(before @ after / (before.norm() * after.norm()))
            for given, made in states[layer :: len(found)]
            for before, after in zip(given[0], (made[0] if isinstance(made, tuple) else made)[0], strict=True)
        ]
        assert len(tokens) == 6
        assert value == pytest.approx(1 - sum(tokens) / 6, abs=1e-5)


def test_a_layer_that_changes_nothing_is_dropped_first():
    model = deep("llama")
    with torch.no_grad():
        for idle in (model.model.layers[1], model.model.layers[2]):
            idle.self_attn.o_proj.weight.zero_()
            idle.mlp.down_proj.weight.zero_()
    importance = pruning.measured(model, [[0, 5, 6, 7]])
    assert pruning.prune(model, "3", importance) == [0, 3, 4]


def silence(model, kept):
    """Let the MLPs of a Llama ignore all neurons but those."""
    with torch.no_grad():
        for layer in model.model.layers:
            others = [i for i in range(model.config.intermediate_size) if i not in kept]
            layer.mlp.up_proj.weight[others] = 0


def test_a_narrowed_model_is_the_model_without_those_neurons(tmp_path):
    from transformers import AutoModelForCausalLM

    whole = deep("llama")
    silence(whole, kept := [1, 4, 5, 20, 31])
    narrowed = deep("llama")
    silence(narrowed, kept)
    before = sum(p.numel() for p in narrowed.parameters())
    pruning.narrow(narrowed, 5, pruning.measured(narrowed, [[0, 5, 6, 7, 8]]).neurons)
    assert before - sum(p.numel() for p in narrowed.parameters()) == 5 * 3 * 16 * (32 - 5)
    with torch.no_grad():
        expected = response_logits(whole, BATCH)
        torch.testing.assert_close(response_logits(narrowed, BATCH), expected)
        narrowed.save_pretrained(tmp_path)
        torch.testing.assert_close(response_logits(AutoModelForCausalLM.from_pretrained(tmp_path), BATCH), expected)


def test_biases_are_narrowed_too():
    model = deep("neox")
    pruning.narrow(model, 8, pruning.measured(model, [[0, 5, 6]]).neurons)
    assert {p.shape for n, p in model.named_parameters() if "dense_h_to_4h.bias" in n} == {(8,)}
    assert torch.isfinite(response_logits(model, BATCH)).all()


def test_what_cannot_be_narrowed_is_refused():
    importance = pruning.measured(deep("gpt2"), [[0, 5, 6]])
    with pytest.raises(StageError, match="cannot be narrowed"):
        pruning.narrow(deep("gpt2"), 8, importance.neurons)
    model = deep("llama")
    with pytest.raises(StageError, match="have 32 neurons"):
        pruning.narrow(model, 33, pruning.measured(model, [[0, 5, 6]]).neurons)
    with pytest.raises(StageError, match="no text"):
        pruning.measured(model, [])


def test_the_stage_measures_on_training_text(tmp_path):
    world = tiny.World(tmp_path)
    world.model("whole", deep("llama"))
    job = {"id": str(tmp_path / "whole" / "model"), "revision": None}
    spec = {"directory": "", "prompts": {"version": 1}, "layers": "2", "by": "similarity", "width": 12}
    made = world.run("init", spec, job=job)  # its inputs are the artifacts of the world, data among them
    kept = world.last.notes["layers"]
    importance = world.last.notes["influence"]
    assert kept == sorted(sorted(range(5), key=lambda i: importance[i])[-2:])
    config = json.loads((made.path / "model" / "config.json").read_text())
    assert (config["num_hidden_layers"], config["intermediate_size"]) == (2, 12)
    source = HubModel(id=job["id"], layers="2", by="similarity", width=12)
    assert pruned_parameters(source, 2, 32, 12) == world.last.counts["parameters"]
    assert pruned_parameters(source, 5, 32, 32) == sum(p.numel() for p in deep("llama").parameters())


@pytest.mark.parametrize("layers", ["6", "0+5"])
def test_layers_that_are_not_there_are_refused(layers):
    with pytest.raises(StageError, match="layers="):
        pruning.chosen(layers, 5)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_pruned_model_is_the_model_without_those_layers(architecture, tmp_path):
    from transformers import AutoModelForCausalLM

    whole, pruned = deep(architecture), deep(architecture)
    assert pruning.prune(pruned, "0+2+4") == [0, 2, 4]
    assert pruned.config.num_hidden_layers == 3
    for name, part in whole.named_modules():  # the other layers hand on what they are given
        if name.endswith((".1", ".3")) and len(list(part.parameters())) > 2:
            part.forward = lambda states, *_, **__: states
    with torch.no_grad():
        expected = response_logits(whole, BATCH)
        torch.testing.assert_close(response_logits(pruned, BATCH), expected)
        pruned.save_pretrained(tmp_path)
        again = AutoModelForCausalLM.from_pretrained(tmp_path)
        torch.testing.assert_close(response_logits(again, BATCH), expected)


@pytest.mark.parametrize("architecture", tiny.ARCHITECTURES)
def test_a_pruned_model_generates_with_its_cache(architecture):
    pruned = deep(architecture)
    pruning.prune(pruned, "2")
    ids = torch.tensor([[0, 5, 6, 7]])
    made = [pruned.generate(ids, max_new_tokens=6, do_sample=False, use_cache=c, pad_token_id=2) for c in (True, False)]
    assert made[0].tolist() == made[1].tolist()


def test_an_encoder_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    config = T5Config(vocab_size=300, d_model=16, d_ff=32, d_kv=8, num_layers=2, num_heads=2)
    with pytest.raises(StageError, match="cannot be pruned"):
        pruning.prune(T5ForConditionalGeneration(config), "1")


def test_the_student_is_selected_and_keyed_by_its_layers(tmp_path):
    from plad_bench.contract.errors import UsageError
    from plad_bench.contract.protocol import Protocol
    from plad_bench.plan.chosen import choose
    from plad_bench.plan.stages import Plan

    tiny.World(tmp_path)
    registry = tiny.registry()
    directory = tmp_path / "model" / "model"
    (few,) = choose(registry, "student", f"pruned[path={directory},layers=1]")

    def init(text):
        ((student,), (task,), (teacher,), (sft,)) = (
            choose(registry, *named)
            for named in (
                ("student", f"pruned[path={directory},layers=1{text}]"),
                ("task", "demo"),
                ("teacher", "small"),
                ("method", "sft"),
            )
        )
        return Plan(task, teacher, student, Protocol(), 0, 1, sft).init

    assert few.component.model(few.params).layers == "1"
    assert not {"by", "width"} & few.params.public().keys()
    stages = [init(text) for text in ("", ",by=similarity", ",width=8")]
    assert [sorted(stage.inputs) for stage in stages] == [[], ["data"], ["data"]]
    assert len({stage.key for stage in stages}) == 3
    for wrong in ("layers=0", "layers=x", "layers=1+", "layers=0+2,by=similarity"):
        with pytest.raises(UsageError, match="layers"):
            choose(registry, "student", f"pruned[path={directory},{wrong}]")
