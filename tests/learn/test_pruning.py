"""Students made of some layers of a bigger model."""

from __future__ import annotations

import pytest
import tiny
import torch

from plad_bench.contract.errors import StageError
from plad_bench.learn import pruning
from plad_bench.learn.chunked_logits import response_logits
from plad_bench.learn.sequences import Tokens, collate

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
    from plad_bench.plan.chosen import choose

    tiny.World(tmp_path)
    registry = tiny.registry()
    directory = tmp_path / "model" / "model"
    (few,) = choose(registry, "student", f"pruned[path={directory},layers=1]")
    assert few.component.model(few.params).layers == "1"
    for wrong in ("layers=0", "layers=x", "layers=1+"):
        with pytest.raises(UsageError, match="layers"):
            choose(registry, "student", f"pruned[path={directory},{wrong}]")
