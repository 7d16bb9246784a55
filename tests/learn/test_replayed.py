"""Reading token by token with tensors that stay in their place, without the graph that only a GPU records."""

from __future__ import annotations

import pytest
import torch

from plad_bench.contract.objectives import Sampling
from plad_bench.learn import replayed, rollouts
from plad_bench.learn.rollouts import Rollouts
from tests import tiny

PROMPTS = [[0, 5, 6, 7], [0, 7], [0, 9, 5]]


def sample(new: int, sampling: Sampling | None = None, teacher: int | None = None) -> list[list[int]]:
    models = tiny.llama(1), None if teacher is None else tiny.llama(teacher)
    made = Rollouts(*models, tiny.tokenizer(), max_new_tokens=new, seed=0)
    return made.sample(PROMPTS, ["a", "b", "c"], 0, sampling or Sampling())


@pytest.fixture
def recorded(monkeypatch):
    """Models whose pass over a token is "recorded" as the same calls."""
    made = []

    def record(self):
        made.append(self)
        return self._step

    monkeypatch.setattr(replayed.Replayed, "_record", record)
    monkeypatch.setattr(rollouts, "replays", lambda _: True)
    return made


@pytest.mark.parametrize("new", [1, 2, 24])
@pytest.mark.parametrize(("sampling", "teacher"), [(None, None), (Sampling(teacher_mix=0.3), 2)])
def test_columns_of_fixed_number_give_the_same_tokens(monkeypatch, recorded, new, sampling, teacher):
    found = sample(new, sampling, teacher)
    assert len(recorded) == (0 if new == 1 else 1 if teacher is None else 2)
    monkeypatch.setattr(rollouts, "replays", lambda _: False)
    assert found == sample(new, sampling, teacher)


def test_verified_drafts_are_taken_back_and_so_not_replayed(recorded):
    sample(6, Sampling(verify_top_k=5, draft=3), 2)
    assert not recorded


@pytest.mark.parametrize("kind", [RuntimeError, TypeError])
def test_a_pass_that_cannot_be_recorded_is_read_as_usual(monkeypatch, recorded, caplog, kind):
    def refuse(self):
        self._step()
        self._advance(-1)
        raise kind("operation not permitted when stream is capturing\nand more")

    expected = sample(8)
    monkeypatch.setattr(replayed.Replayed, "_record", refuse)
    assert sample(8) == expected
    assert f"is read without a CUDA graph: {kind.__name__}: operation not permitted" in caplog.text


def test_only_a_gpu_replays():
    assert not replayed.replays(tiny.llama(1))
    assert not torch.cuda.is_available() or replayed.replays(tiny.llama(1).cuda())
