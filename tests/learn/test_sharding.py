"""A student that two processes divide among them (FSDP2, gloo) is trained as one process trains it."""

from __future__ import annotations

import in_ranks
import pytest
import tiny
import torch
from click.testing import CliRunner

from plad_bench.cli.main import cli
from plad_bench.contract.errors import StageError
from plad_bench.learn import models, ranks, sharding, training

EQUAL = ["kd:sharded", "kd:sharded,2", "kd:sharded,3,untied", "plad:sharded", "plad:sharded,2,untied"]
EQUAL += ["taid:sharded,3", "kd:sharded,checkpointing", "kd:sharded,lora", "gkd:sharded,2", "sft:sharded,gpt2"]
ROUGH = ["kd:sharded,bf16", "plad:sharded,bf16,checkpointing"]
STOPPED = ["kd:sharded,until-4", "kd:sharded,six"]
RESUMED = ["kd:sharded,from-1", "kd:sharded,from-2"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(case, number of processes) -> what came of it."""
    directory, made = tmp_path_factory.mktemp("sharding"), {}

    def here(cases):
        with pytest.MonkeyPatch.context() as patch:
            for name, value in in_ranks.OFTEN.items():
                patch.setattr(training, name, value)
            for case in cases:
                method, _, how = case.partition(":sharded")
                made[case, 1] = in_ranks.sharded(method, how, directory)

    here(EQUAL + ROUGH + STOPPED)
    in_ranks.start(directory, 2, EQUAL + ROUGH + STOPPED + RESUMED)
    here(RESUMED[1:])
    return lambda case, count: made.get((case, count)) or in_ranks.result(directory, case, count)


@pytest.mark.slow
@pytest.mark.parametrize("case", EQUAL)
def test_two_processes_train_what_one_does(run, case):
    one, two = run(case, 1), run(case, 2)
    tiny.same_training(one["start"], one["weights"], two["weights"])
    assert [sorted(mine) for mine in one["curve"]] == [sorted(theirs) for theirs in two["curve"]]
    for mine, theirs in zip(one["curve"], two["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    assert two["cost"] == one["cost"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ROUGH)
def test_in_bf16_they_differ_by_its_rounding(run, case):
    one, two = run(case, 1), run(case, 2)
    tiny.same_training(one["start"], one["weights"], two["weights"], share=0.1)
    assert two["curve"][-1]["loss"] == pytest.approx(one["curve"][-1]["loss"], rel=0.02)


@pytest.mark.slow
def test_each_holds_about_half_of_the_weights(run):
    whole, part = (run("kd:sharded", count)["parts"] for count in (1, 2))
    assert whole / 2 <= part < 0.55 * whole


@pytest.mark.slow
@pytest.mark.parametrize(("case", "count"), [(RESUMED[0], 2), (RESUMED[1], 2), (RESUMED[1], 1)])
def test_a_killed_training_goes_on_with_any_number_of_processes(run, case, count):
    straight, resumed = run("kd:sharded,six", 1), run(case, count)
    tiny.same_training(straight["start"], straight["weights"], resumed["weights"])
    assert [at["step"] for at in resumed["curve"]] == list(range(6))
    for mine, theirs in zip(straight["curve"], resumed["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_what_is_resumed_in_as_many_processes_is_the_same_to_the_last_bit(run):
    assert run(RESUMED[1], 2)["weights"] == run("kd:sharded,six", 2)["weights"]


def test_every_process_computes_as_many_micro_batches(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    for rank, mine in enumerate([[(0, 3), (3, 3)], [(1, 3), (0, 0)], [(2, 3), (0, 0)]]):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        assert list(training._weighted(range(4), shard=True)) == mine
        assert list(training._weighted(range(4), shard=False)) == [(one, 1) for one, weight in mine if weight]
        assert list(training._weighted([], shard=True)) == []


def test_a_step_that_exceeds_the_memory_ends_the_stage_because_the_others_wait(monkeypatch):
    def full(size):
        raise MemoryError

    monkeypatch.setattr(ranks, "count", lambda: 2)
    module = torch.nn.Linear(1, 1)
    optimizer, step = torch.optim.SGD(module.parameters()), training.Step(full, 2, 2)
    with pytest.raises(StageError, match="out of memory in a step of a sharded model") as caught:
        training._accumulate(module, optimizer, step, 0, 2, shard=True)
    assert "--ranks" in caught.value.remedy


def test_layers_are_what_transformers_does_not_divide():
    from transformers import MambaConfig, MambaForCausalLM

    nested = MambaForCausalLM(MambaConfig(vocab_size=20, hidden_size=8, state_size=2, num_hidden_layers=2))
    assert [type(layer).__name__ for layer in models.layers(nested)] == ["MambaBlock"] * 2
    assert len(models.layers(tiny.llama(num_hidden_layers=3))) == 3
    nested._no_split_modules = None
    with pytest.raises(StageError, match="MambaForCausalLM does not say what its layers are"):
        sharding.shard(type("Loss", (), {"student": nested}), "float32", "cpu")


@pytest.mark.parametrize(
    ("options", "message"),
    [((), "--ranks is 1"), (("--ranks", "2", "--optimizer", "adamw8bit"), "--shard cannot divide the moments")],
)
def test_what_cannot_be_shared_is_refused_first(tmp_path, options, message):
    place = ("--store", str(tmp_path / "s"), "--boards-dir", str(tmp_path / "b"), "--gpus", "none")
    found = CliRunner().invoke(cli, ["plan", "--methods", "kd", "--shard", *options, *place], standalone_mode=False)
    assert message in str(found.exception)
