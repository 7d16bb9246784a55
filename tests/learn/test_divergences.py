"""The divergences themselves: exact zeros, hand-computed values, limits, and hard inputs (trust: 1, 2, 5, 6)."""

from __future__ import annotations

import math

import pytest
import torch

from plad_bench.learn import divergences as d

DTYPES = (torch.bfloat16, torch.float32, torch.float64)
FAMILY = {
    "forward": d.forward_kl,
    "reverse": d.reverse_kl,
    "skl": lambda q, p: d.skew_forward_kl(q, p, 0.1),
    "srkl": lambda q, p: d.skew_reverse_kl(q, p, 0.1),
    "jsd 0": lambda q, p: d.jsd(q, p, 0),
    "jsd 0.3": lambda q, p: d.jsd(q, p, 0.3),
    "jsd 1": lambda q, p: d.jsd(q, p, 1),
    "jsd teacher": lambda q, p: d.jsd_teacher_term(q, p, 0.3),
    "jsd student": lambda q, p: d.jsd_student_term(q, p, 0.3),
    "tv": d.total_variation,
    "akl": lambda q, p: d.adaptive_kl(q, p, 0.5),
    "ab 0.5 0.5": lambda q, p: d.alpha_beta(q, p, 0.5, 0.5),
    "ab 1 0": lambda q, p: d.alpha_beta(q, p, 1, 0),
    "ab 0 1": lambda q, p: d.alpha_beta(q, p, 0, 1),
    "ab 0.7 0.3": lambda q, p: d.alpha_beta(q, p, 0.7, 0.3),
    "ab 0.2 1.3": lambda q, p: d.alpha_beta(q, p, 0.2, 1.3),
    "ab 0 0": lambda q, p: d.alpha_beta(q, p, 0, 0),
    "ab 0.01 0.02": lambda q, p: d.alpha_beta(q, p, 0.01, 0.02),
    "interpolated": lambda q, p: d.interpolated_kl(q, p, 0.4),
    "sorted": d.sorted_distance,
}


def logits(seed, dtype=torch.float64, shape=(6, 11), scale=3.0):
    z = scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return z.to(dtype)


def value_and_gradient(loss, student, teacher):
    student = student.clone().requires_grad_()
    value = loss(student, teacher)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    return value.detach(), gradient


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_equal_distributions_give_exactly_zero_and_no_gradient(name, dtype):
    z = logits(1, dtype)
    value, gradient = value_and_gradient(FAMILY[name], z, z.clone())
    assert torch.equal(value, torch.zeros_like(value))
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", FAMILY)
def test_different_distributions_give_a_loss_and_a_gradient(name):
    value, gradient = value_and_gradient(FAMILY[name], logits(1), logits(2))
    assert (value > 1e-3).all()
    assert (gradient.abs().amax(-1) > 1e-5).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_never_negative_beyond_rounding(name, dtype):
    student = logits(3, dtype, (200, 50))
    noise = logits(4, dtype, (200, 50), scale=1e-3)
    for teacher in (logits(5, dtype, (200, 50)), student + noise):
        assert FAMILY[name](student, teacher).min() > -1e-5


@pytest.mark.parametrize("name", FAMILY)
def test_low_precision_inputs_are_computed_in_float32(name):
    student, teacher = logits(1, torch.bfloat16), logits(2, torch.bfloat16)
    value = FAMILY[name](student, teacher)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, FAMILY[name](student.float(), teacher.float()), rtol=0, atol=0)


@pytest.mark.parametrize("name", [n for n in FAMILY if n not in {"tv", "sorted", "akl", "interpolated"}])
def test_gradients_agree_with_finite_differences(name):
    student = logits(1, shape=(2, 5)).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: FAMILY[name](z, logits(2, shape=(2, 5))), (student,))


@pytest.mark.parametrize("name", FAMILY)
def test_permuting_the_vocabulary_changes_nothing(name):
    student, teacher = logits(1), logits(2)
    order = torch.randperm(11, generator=torch.Generator().manual_seed(0))
    permuted = FAMILY[name](student[:, order], teacher[:, order])
    torch.testing.assert_close(permuted, FAMILY[name](student, teacher))


def test_ties_in_the_teacher_do_not_depend_on_the_order_of_the_vocabulary():
    teacher = torch.tensor([[0.25, 0.25, 0.25, 0.25]], dtype=torch.float64).log()
    student = torch.tensor([[0.4, 0.3, 0.2, 0.1]], dtype=torch.float64).log()
    expected = d.adaptive_kl(student, teacher, 0.5)
    torch.testing.assert_close(d.adaptive_kl(student.flip(-1), teacher, 0.5), expected)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", FAMILY)
def test_tokens_that_neither_can_say_contribute_nothing(name, dtype):
    student, teacher = logits(1, dtype), logits(2, dtype)
    padding = torch.full((6, 3), -math.inf, dtype=dtype)
    value, gradient = value_and_gradient(FAMILY[name], student, teacher)
    padded, padded_gradient = value_and_gradient(
        FAMILY[name], torch.cat([student, padding], -1), torch.cat([teacher, padding], -1)
    )
    tolerance = {"rtol": 1e-2, "atol": 1e-3} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(padded, value)
    torch.testing.assert_close(padded_gradient[:, :11], gradient, **tolerance)
    assert torch.equal(padded_gradient[:, 11:], torch.zeros_like(padding))


@pytest.mark.parametrize("name", FAMILY)
def test_a_token_that_only_the_teacher_excludes_leaves_no_nan(name):
    student, teacher = logits(1, torch.float32), logits(2, torch.float32)
    teacher[:, 0] = -math.inf
    value, gradient = value_and_gradient(FAMILY[name], student, teacher)
    assert not value.isnan().any()
    assert not gradient.isnan().any()


@pytest.mark.parametrize("name", FAMILY)
def test_extreme_logits_leave_no_nan(name):
    student, teacher = logits(1, torch.float32, scale=300.0), logits(2, torch.float32, scale=300.0)
    value, gradient = value_and_gradient(FAMILY[name], student, teacher)
    assert value.isfinite().all()
    assert gradient.isfinite().all()


def test_directions_and_values_on_a_hand_computed_example():
    """p = (1/2, 1/2), q = (1/4, 3/4): KL(p||q) = log 2 - (log 3)/2, KL(q||p) = (3 log 3)/4 - log 2, TV = 1/4."""
    teacher = torch.tensor([[0.5, 0.5]], dtype=torch.float64).log()
    student = torch.tensor([[0.25, 0.75]], dtype=torch.float64).log()
    forward, reverse = math.log(2) - math.log(3) / 2, 0.75 * math.log(3) - math.log(2)
    assert d.forward_kl(student, teacher).item() == pytest.approx(forward, abs=1e-12)
    assert d.reverse_kl(student, teacher).item() == pytest.approx(reverse, abs=1e-12)
    assert d.total_variation(student, teacher).item() == pytest.approx(0.25, abs=1e-12)
    m = (0.4, 0.6)  # 0.6 p + 0.4 q
    jsd = 0.6 * sum(0.5 * math.log(0.5 / x) for x in m) + 0.4 * (
        0.25 * math.log(0.25 / m[0]) + 0.75 * math.log(0.75 / m[1])
    )
    assert d.jsd(student, teacher, 0.6).item() == pytest.approx(jsd, abs=1e-12)


def test_jsd_is_forward_kl_at_0_and_reverse_kl_at_1_and_is_their_limit_when_rescaled():
    student, teacher = logits(1), logits(2)
    forward, reverse = d.forward_kl(student, teacher), d.reverse_kl(student, teacher)
    assert torch.equal(d.jsd(student, teacher, 0), forward)
    assert torch.equal(d.jsd(student, teacher, 1), reverse)
    close, far = 1e-7, 1 - 1e-7
    torch.testing.assert_close(d.jsd(student, teacher, close) / close, forward, rtol=1e-2, atol=1e-4)
    torch.testing.assert_close(d.jsd(student, teacher, far) / (1 - far), reverse, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("point", [(0.0, 0.5), (0.5, 0.0), (0.0, 0.0), (1.0, 0.0), (0.0, 1.0)], ids=str)
@pytest.mark.parametrize("step", [1e-3, 1e-5, 1e-7, 1e-12])
def test_the_alpha_beta_family_is_continuous_at_its_special_values(point, step, dtype):
    student, teacher = logits(1, dtype, scale=1.0), logits(2, dtype, scale=1.0)
    there, there_gradient = value_and_gradient(lambda q, p: d.alpha_beta(q, p, *point), student, teacher)
    near, near_gradient = value_and_gradient(
        lambda q, p: d.alpha_beta(q, p, point[0] + step, point[1] + step), student, teacher
    )
    torch.testing.assert_close(near, there, rtol=10 * step + 1e-4, atol=10 * step + 1e-5)
    torch.testing.assert_close(near_gradient, there_gradient, rtol=10 * step + 1e-4, atol=10 * step + 1e-5)


def test_the_alpha_beta_family_has_the_kl_divergences_as_corners():
    student, teacher = logits(1), logits(2)
    torch.testing.assert_close(d.alpha_beta(student, teacher, 1, 0), d.forward_kl(student, teacher))
    torch.testing.assert_close(d.alpha_beta(student, teacher, 0, 1), d.reverse_kl(student, teacher))


def test_a_mixture_is_one_of_probabilities():
    log_p, log_q = logits(2).log_softmax(-1), logits(1).log_softmax(-1)
    torch.testing.assert_close(d.log_mixture(log_p, log_q, 0.3), (0.3 * log_p.exp() + 0.7 * log_q.exp()).log())


def test_dividing_by_the_temperature_loses_no_precision():
    z = logits(1, torch.bfloat16)
    assert torch.equal(d.soften(z, 3.0), z.float() / 3.0)
