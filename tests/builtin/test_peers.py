"""Agreement with other libraries' losses where they are installed, and how their conventions translate to ours.

- JSD weight: TRL's and Liger's `beta` weighs the teacher's term, as ours does; 0 and 1 are the two KL divergences.
- TRL's reduction "batchmean" divides by the number of valid tokens; Liger returns one value per token.
- A temperature divides both logits; TRL's GKD has no T^2, nor has ours.
- Pair losses there take log-probabilities already summed (DPO, hinge) or averaged over tokens (SimPO, ORPO); ours are
  always handed the sums and the lengths.
- The hinge there is max(0, 1 - b x). Ours in PLaD and SLiC is max(0, m - x): with b = 1/m ours is m times theirs.
- SimPO's gamma is the margin itself in TRL's `simpo_gamma`, in Liger and here; the paper also quotes gamma/beta.
- ORPO there returns the odds-ratio part alone, with opposite signs: TRL `beta logsigmoid`, Liger `-beta logsigmoid`;
  the whole adds the mean of -log q(y+)/length(y+). TRL computes it in float32.
- Liger's pair losses divide by half of their `full_target`'s rows.
"""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from plad_bench.testing import pair_loss, token_loss


@pytest.fixture
def trl(monkeypatch):
    """TRL's experimental trainers; their warning about being experimental is switched off as it advises."""
    pytest.importorskip("trl")
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    return pytest.importorskip("trl.experimental")


@pytest.fixture
def liger():
    return pytest.importorskip("liger_kernel.chunked_loss")


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    student, teacher = 2 * torch.randn(2, 3, 5, 11, generator=generator, dtype=torch.float64)
    labels = torch.randint(0, 11, (3, 5), generator=generator)
    labels[0, 3:] = labels[1, 1:] = -100
    return student, teacher, labels


@pytest.fixture
def pairs():
    """chosen, rejected, their lengths, and the same two under the reference."""
    generator = torch.Generator().manual_seed(0)
    chosen, rejected, reference_chosen, reference_rejected = -20 * torch.rand(
        4, 6, generator=generator, dtype=torch.float64
    )
    lengths = torch.randint(3, 12, (2, 6), generator=generator)
    return chosen, rejected, *lengths, reference_chosen, reference_rejected


@pytest.fixture
def means(pairs):
    return pairs[0] / pairs[2], pairs[1] / pairs[3]


def assert_same_value_and_gradient(ours, theirs, point):
    results = []
    for loss in (ours, theirs):
        leaf = point.clone().requires_grad_()
        value = loss(leaf)
        results.append((value.detach(), *torch.autograd.grad(value, leaf)))
    for mine, other in zip(*results, strict=True):
        torch.testing.assert_close(mine, other.to(mine.dtype), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_is_trls(trl, batch, beta, temperature):
    from trl.experimental.gkd import GKDTrainer

    student, teacher, labels = batch
    assert_same_value_and_gradient(
        lambda z: token_loss("jsd", z / temperature, teacher / temperature, labels, beta=beta),
        lambda z: GKDTrainer.generalized_jsd_loss(z, teacher, labels, beta=beta, temperature=temperature),
        student,
    )


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_jsd_is_ligers(liger, batch, beta):
    from liger_kernel.chunked_loss.jsd_loss import LigerFusedLinearJSDFunction

    student, teacher, labels = batch
    valid = labels != -100
    assert_same_value_and_gradient(
        lambda z: token_loss("jsd", z, teacher, labels, beta=beta),
        lambda z: (
            LigerFusedLinearJSDFunction.distillation_loss_fn(z[valid], teacher[valid], beta=beta).sum() / valid.sum()
        ),
        student,
    )


@pytest.mark.parametrize(("kind", "method", "name"), [("sigmoid", "dpo", "beta"), ("hinge", "rso-hinge", "gamma")])
def test_dpo_and_its_hinge_are_ligers(liger, pairs, kind, method, name):
    from liger_kernel.chunked_loss.dpo_loss import LigerFusedLinearDPOFunction

    chosen, rejected, chosen_length, rejected_length, *reference = pairs
    assert_same_value_and_gradient(
        lambda c: pair_loss(method, c, rejected, chosen_length, rejected_length, *reference, **{name: 0.3}),
        lambda c: LigerFusedLinearDPOFunction.preference_loss_fn(
            c, rejected, torch.empty(12, 1), *reference, beta=0.3, loss_type=kind
        )[0],
        chosen,
    )


def cpo(trl, kind, beta, gamma=0.0):
    """TRL's CPO loss of log-probabilities, without building a trainer."""
    from trl.experimental.cpo import CPOTrainer

    settings = SimpleNamespace(
        alpha=0.0,
        beta=beta,
        simpo_gamma=gamma,
        label_smoothing=0.0,
        loss_type=kind,
        accelerator=SimpleNamespace(device=torch.device("cpu")),
    )
    return lambda chosen, rejected: CPOTrainer.cpo_loss(settings, chosen, rejected)[0].mean()


def test_plads_ranking_loss_is_trls_reference_free_hinge(trl, pairs):
    chosen, rejected, *lengths = pairs[:4]
    margin = 4.0
    theirs = cpo(trl, "hinge", beta=1 / margin)
    for method, params in (("plad", {"beta": margin, "logprob": "sum"}), ("slic", {"margin": margin})):
        assert_same_value_and_gradient(
            lambda c, m=method, p=params: pair_loss(m, c, rejected, *lengths, sft_weight=0, **p),
            lambda c: margin * theirs(c, rejected),
            chosen,
        )


def test_simpo_is_trls(trl, pairs, means):
    theirs = cpo(trl, "simpo", beta=2.0, gamma=1.0)
    chosen, rejected, chosen_length, rejected_length = pairs[:4]
    assert_same_value_and_gradient(
        lambda c: pair_loss("simpo", c, rejected, chosen_length, rejected_length, beta=2, gamma=1),
        lambda c: theirs(c / chosen_length, means[1]),
        chosen,
    )


def test_simpo_is_ligers(liger, pairs, means):
    from liger_kernel.chunked_loss.simpo_loss import LigerFusedLinearSimPOFunction

    ours = pair_loss("simpo", *pairs[:4], beta=3, gamma=0.5)
    theirs = LigerFusedLinearSimPOFunction.preference_loss_fn(*means, torch.empty(12, 1), beta=3, gamma=0.5)[0]
    torch.testing.assert_close(ours, theirs)


def test_orpo_is_trls(trl, pairs, means):
    from trl.experimental.orpo import ORPOTrainer

    settings = SimpleNamespace(beta=0.4, accelerator=SimpleNamespace(device=torch.device("cpu")))
    chosen, rejected = means
    theirs = -chosen.mean() - ORPOTrainer.odds_ratio_loss(settings, chosen, rejected)[0].mean()
    torch.testing.assert_close(pair_loss("orpo", *pairs[:4], weight=0.4), theirs, rtol=1e-5, atol=1e-6)


def test_orpo_is_ligers(liger, pairs, means):
    from liger_kernel.chunked_loss.orpo_loss import LigerFusedLinearORPOFunction

    odds = LigerFusedLinearORPOFunction.preference_loss_fn(*means, torch.empty(12, 1), beta=0.4)[0]
    torch.testing.assert_close(pair_loss("orpo", *pairs[:4], weight=0.4), odds - means[0].mean())
