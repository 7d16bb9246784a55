"""confident-kd keeps the claims of check-plugin, computes its equation, and is ranked beside kd."""

import pytest
import torch
from plad_bench.testing import token_loss

import confident_kd


def test_it_keeps_every_claim(plad_bench_check):
    plad_bench_check(confident_kd)


@pytest.mark.parametrize("power", [0.5, 1, 3])
def test_it_is_its_equation(power):
    student, teacher = torch.randn(2, 3, 4, 11, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.zeros(3, 4, dtype=torch.long)
    q, p = student.softmax(-1), teacher.softmax(-1)
    expected = (p.max(-1).values ** power * (p * (p / q).log()).sum(-1)).mean()
    found = token_loss(confident_kd.METHOD, student, teacher, labels, power=power)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)


def test_power_0_is_plain_kd(tiny_models):
    logits = tiny_models.batch([("red door", "The door is red."), ("blue cup", "A blue cup.")])
    torch.testing.assert_close(
        token_loss(confident_kd.METHOD, *logits, power=0), token_loss("kd", *logits, ce_weight=0)
    )


def test_it_gets_a_row_for_each_power(throwaway_board):
    (group,) = throwaway_board(confident_kd, methods="confident-kd[power=0.5|2],kd").groups
    assert {row.label for row in group.rows} == {"confident-kd[power=0.5]", "confident-kd[power=2]", "kd"}
