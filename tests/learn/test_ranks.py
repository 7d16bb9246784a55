"""One process, or several that share a step: the same losses, gradients, weights, draws and counts."""

from __future__ import annotations

import json

import in_ranks
import pytest
import tiny
import torch

from plad_bench.learn import ranks

TRAININGS = ["kd:2", "kd:0", "plad:0", "dpo:1", "gkd:0", "minillm:0", "taid:3", "distillm:0"]
TRAININGS += ["plad:small", "gkd:small", "kd:full"]
WRAPPERS = [f"{name}:{how}" for name in ("kd", "plad") for how in ("ddp", "fsdp")]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """(case, ranks) -> what came of it. All cases of a number of ranks run in one go."""
    directory, done = tmp_path_factory.mktemp("ranks"), set()

    def result(case, count):
        if count not in done:
            in_ranks.start(directory, count, TRAININGS + WRAPPERS if count < 3 else TRAININGS[:4])
            done.add(count)
        return in_ranks.result(directory, case, count)

    return result


def close(one, other):
    """The same weights."""
    tiny.same_training(tiny.llama(1).state_dict(), one, other)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAININGS)
def test_two_ranks_train_what_one_does(run, case):
    one, two = run(case, 1), run(case, 2)
    close(one["weights"], two["weights"])
    assert len(one["curve"]) == len(two["curve"])
    for mine, theirs in zip(one["curve"], two["curve"], strict=True):
        assert theirs == pytest.approx(mine, rel=1e-3, abs=1e-5)
    assert two["tokens"] == one["tokens"]
    assert two["cost"] == one["cost"]
    assert two["memory"] == pytest.approx(one["memory"], rel=1e-4, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("case", TRAININGS[:4])
def test_so_do_three_among_whom_a_step_does_not_divide(run, case):
    one, three = run(case, 1), run(case, 3)
    close(one["weights"], three["weights"])
    assert three["cost"] == one["cost"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plad", "gkd"])
def test_where_one_rank_is_short_of_memory_all_take_fewer_sequences(run, name):
    one, two = run(f"{name}:small", 1), run(f"{name}:small", 2)
    assert (one["micro_batch"], two["micro_batch"]) == ((1, 1) if name == "plad" else (1, 2))
    close(run(f"{name}:0", 1)["weights"], two["weights"])
    assert two["cost"] == run(f"{name}:0", 1)["cost"]


@pytest.mark.slow
def test_where_one_rank_has_no_room_for_the_batch_itself_all_take_fewer_sequences(run):
    two = run("kd:full", 2)
    assert two["micro_batch"] == 2
    close(run("kd:0", 1)["weights"], two["weights"])
    assert two["curve"][-1]["loss"] == pytest.approx(run("kd:0", 1)["curve"][-1]["loss"])


@pytest.mark.slow
@pytest.mark.parametrize("case", WRAPPERS)
def test_losses_and_gradients_are_the_same_under_torchs_wrappers(run, case):
    one, two = run(case, 1), run(case, 2)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-5)
    assert one["gradient"].keys() == two["gradient"].keys()
    for name, value in one["gradient"].items():
        torch.testing.assert_close(torch.tensor(two["gradient"][name]), torch.tensor(value), rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_the_runs_differ_where_they_should(run):
    """Or equal results would show nothing: the methods trained, and not to the same weights."""
    weights = {case: run(case, 1)["weights"] for case in TRAININGS}
    heads = {json.dumps(w["lm_head.weight"]) for w in weights.values()}
    assert len(heads) >= len(TRAININGS) - 4  # kd is there thrice, plad and gkd twice, and agree but for rounding
    assert run("gkd:0", 1)["cost"]["tokens_generated"] > 0


def test_a_single_process_shares_with_nobody():
    assert (ranks.rank(), ranks.count(), ranks.own()) == (0, 1, ())
    assert ranks.share([1, 2, 3]) == ranks.gather([1, 2, 3]) == [1, 2, 3]
    assert ranks.add({"loss": 1.5}) == {"loss": 1.5}
    assert (ranks.even(0, 7), ranks.even(3, 7), ranks.even(9, 7), ranks.even(0, 0)) == (7, 3, 7, 1)


def test_every_rank_has_work_and_its_part_goes_back_to_its_place(monkeypatch):
    monkeypatch.setattr(ranks, "count", lambda: 3)
    assert ranks.even(0, 7) == 3
    parts = []
    for rank in range(3):
        monkeypatch.setattr(ranks, "rank", lambda rank=rank: rank)
        parts.append(ranks.share(list(range(7))))
    assert sorted(i for part in parts for i in part) == list(range(7))
