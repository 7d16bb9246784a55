"""The optimiser of a training: AdamW, or that of bitsandbytes, which this machine need not have."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
import tiny
import torch

from plad_bench.contract.errors import MissingError
from plad_bench.learn import optimizers
from plad_bench.plan import backends, matrix, requirements, spec


class Manager:
    overrides: list = []  # noqa: RUF012

    @classmethod
    def get_instance(cls):
        return cls

    @classmethod
    def register_module_override(cls, module, name, settings):
        cls.overrides.append((module, name, settings))


class AdamW8bit(torch.optim.AdamW):
    """As of bitsandbytes in what it is given."""

    def __init__(self, parameters, lr, weight_decay):
        self.given = {"lr": lr, "weight_decay": weight_decay}
        super().__init__(parameters, lr=lr, weight_decay=weight_decay)


@pytest.fixture
def bitsandbytes(monkeypatch):
    """A stand-in for the package."""
    module = ModuleType("bitsandbytes")
    module.optim = SimpleNamespace(AdamW8bit=AdamW8bit, GlobalOptimManager=Manager)
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    monkeypatch.setattr(Manager, "overrides", [])


def cells(**overrides):
    given = {"task": "demo", "methods": "sft", "student": "tiny", "teacher": "small", "metrics": "rouge-l"}
    built = spec.build(tiny.registry(), **given, overrides={"demo": overrides})
    return {cell.row: cell for cell in matrix.cells(built, tiny.registry())}


def test_adamw_trains_what_is_not_frozen():
    model = tiny.llama()
    model.lm_head.requires_grad_(False)
    made = optimizers.make("adamw", model, 0.1, "cpu")
    assert type(made) is torch.optim.AdamW
    assert made.defaults["lr"] == 0.1
    assert len(made.param_groups[0]["params"]) == len(list(model.parameters())) - 1


@pytest.mark.usefixtures("bitsandbytes")
def test_moments_of_embeddings_stay_in_float32():
    model = tiny.llama()
    made = optimizers.make("adamw8bit", model, 0.1, "cuda:0")
    assert type(made) is AdamW8bit
    assert made.given == {"lr": 0.1, "weight_decay": torch.optim.AdamW(model.parameters()).defaults["weight_decay"]}
    assert Manager.overrides == [(model.model.embed_tokens, "weight", {"optim_bits": 32})]


def test_a_cpu_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(MissingError, match="needs a GPU"):
        optimizers.make("adamw8bit", tiny.llama(), 0.1, "cpu")
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingError, match="bitsandbytes") as refused:
        optimizers.make("adamw8bit", tiny.llama(), 0.1, "cuda:0")
    assert refused.value.remedy == "pip install 'plad-bench[bitsandbytes]'"


def test_they_are_refused_before_any_work(monkeypatch):
    every = cells(optimizer="adamw8bit").values()
    with pytest.raises(MissingError, match="needs a GPU"):
        requirements.check(every, gpu=False)
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match="bitsandbytes"):
        requirements.check(every)
    requirements.check(cells().values(), gpu=False)
    made = {stage.key for cell in every for stage in cell.stages}
    requirements.check(every, made.__contains__, gpu=False)


@pytest.mark.usefixtures("bitsandbytes")
def test_the_train_stage_uses_the_optimiser_of_its_specification(tmp_path, monkeypatch):
    asked, real = [], optimizers.make
    monkeypatch.setattr(optimizers, "make", lambda name, *given: asked.append(name) or real("adamw", *given))
    world = tiny.World(tmp_path)
    world.train("sft")
    world.train("sft", optimizer="adamw8bit")
    assert asked == ["adamw", "adamw8bit"]


def test_students_have_it_in_their_keys_and_the_default_changes_none():
    usual, eight, named = (cells(**given)["sft"] for given in ({}, {"optimizer": "adamw8bit"}, {"optimizer": "adamw"}))
    stages = [{s.name: s for s in cell.stages} for cell in (usual, eight, named)]
    assert stages[0]["distill"].key == stages[2]["distill"].key != stages[1]["distill"].key
    assert stages[1]["sft-init"].spec["optimizer"] == "adamw8bit"
    assert "optimizer" not in stages[0]["sft-init"].spec
    assert usual.plan.teacher_model.key == eight.plan.teacher_model.key  # from scratch
