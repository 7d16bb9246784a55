"""Keeping the best checkpoint of a training."""

from __future__ import annotations

import pytest
import tiny
import torch

from plad_bench.learn.selection import Selection, points
from plad_bench.learn.training import Steps

LAST = 40


class Plain(Steps):
    def after(self, number, share, loss, *, ends_part):
        return {"seen": number}

    def state(self):
        return {"own": 1}

    def restore(self, state):
        assert state == {"own": 1}


def selection(directory, values, model=None):
    left = iter(values)
    return Selection(Plain(), model or tiny.llama(), lambda: next(left), points(LAST, 4), directory)


def train(of, first=0, last=LAST):
    """Set every weight to the number of steps so far."""
    for number in range(first, last):
        with torch.no_grad():
            for parameter in of.model.parameters():
                parameter.fill_(number + 1)
        assert of.after(number, 0, 1.0, ends_part=False) == {"seen": number}


def weight(of):
    return int(next(of.model.parameters()).flatten()[0])


@pytest.mark.parametrize(("steps", "expected"), [(40, [10, 20, 30, 40]), (3, [1, 2, 3]), (1, [1]), (10, [2, 5, 8, 10])])
def test_points_are_evenly_spaced_and_end_with_the_last_step(steps, expected):
    assert points(steps, 4) == expected


@pytest.mark.parametrize(("values", "best"), [([1, 3, 2, 2], 20), ([4, 3, 2, 1], 10), ([1, 1, 1, 2], 40)])
def test_the_weights_of_the_best_value_come_back(tmp_path, values, best):
    of = selection(tmp_path, values)
    train(of)
    of.give_best(of.model)
    assert (of.best, weight(of)) == (best, best)
    assert len(list(tmp_path.iterdir())) <= 2


@pytest.mark.parametrize("killed", [11, 15, 25, 35, 39])
def test_a_resumed_training_keeps_the_checkpoint_that_an_undisturbed_one_keeps(tmp_path, killed):
    for values, best in (([1, 3, 2, 2], 20), ([4, 3, 2, 1], 10), ([1, 2, 3, 1], 30)):
        place = tmp_path / str(best)
        of = selection(place, values)
        saved = killed // 5 * 5
        train(of, last=saved)
        state = of.state()
        train(of, saved, killed)  # lost, but for the files that it wrote
        again = selection(place, values[len(state["values"]) :])
        again.restore(state)
        train(again, saved)
        again.give_best(again.model)
        assert (again.best, weight(again)) == (best, best)


def test_weights_that_are_lost_are_not_the_best(tmp_path):
    of = selection(tmp_path, [5, 1, 2, 1])
    train(of, last=15)
    for file in tmp_path.iterdir():
        file.unlink()
    train(of, 15)
    of.give_best(of.model)
    assert (of.best, weight(of)) == (30, 30)
