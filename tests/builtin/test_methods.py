"""Every registered method, asked through the audit calls, against its equation written plainly in float64.

What every method must keep, whatever its equation, is held against the registry in
tests/project/test_conformance.py. A new built-in method needs an entry in TOKEN_CASES or PAIR_CASES.
`python tests/builtin/test_methods.py` rewrites the snapshot of defaults.
"""

from __future__ import annotations

import doctest
import json
import math
import re
import sys
from pathlib import Path

import pytest
import torch

from plad_bench import Access, PladBenchError, Text, TokenObjective, Trace, UsageError
from plad_bench.conformance.methods import batch, graded, pairs
from plad_bench.contract.registry import Registry
from plad_bench.testing import pair_loss, token_loss

SNAPSHOT = Path(__file__).with_name("defaults.json")
METHODS = {name: found[0].component for name, found in Registry.load().components("method").items()}
BUILT_IN = {
    name
    for name, found in Registry.load().components("method").items()
    if found[0].origin.distribution.startswith("plad-bench ")
}


TOKEN = [name for name, m in METHODS.items() if isinstance(m.objective, TokenObjective)]
PAIR = [name for name, m in METHODS.items() if name not in TOKEN]

# ------------------------------------------------------------------- the equations again, in probabilities, on [N, V]


def kl(a, b):
    return (a * (a / b).log()).sum(-1)


def ce(q, y):
    return -q.log()[torch.arange(len(y)), y]


def soft(p, temperature):
    powered = p ** (1 / temperature)
    return powered / powered.sum(-1, keepdim=True)


def jsd(q, p, b):
    m = b * p + (1 - b) * q
    return kl(p, q) if b == 0 else kl(q, p) if b == 1 else b * kl(p, m) + (1 - b) * kl(q, m)


def skl(q, p, a):
    return kl(p, a * p + (1 - a) * q)


def srkl(q, p, a):
    return kl(q, (1 - a) * p + a * q)


def akl(q, p, mu):
    """The weight is a constant for the gradient; sums of sorted probabilities, token by token."""
    losses = []
    for q_row, p_row in zip(q, p, strict=True):
        gap = (p_row - q_row).abs().detach().tolist()
        head, mass = [], 0.0
        for v in sorted(range(len(p_row)), key=lambda v: -p_row[v]):
            mass += float(p_row[v])
            if head and mass > mu:
                break
            head.append(v)
        weight = sum(gap[v] for v in head) / sum(gap)
        losses.append(weight * kl(p_row, q_row) + (1 - weight) * kl(q_row, p_row))
    return torch.stack(losses)


def alpha_beta(q, p, a, b):
    if a == b == 0:
        return ((p / q).log() ** 2).sum(-1) / 2
    if a == 0:
        return (q**b * (q**b / p**b).log() - q**b + p**b).sum(-1) / b**2
    if b == 0:
        return alpha_beta(p, q, 0, a)
    s = a + b
    return -(p**a * q**b - a / s * p**s - b / s * q**s).sum(-1) / (a * b)


def dpkd(q, p, b):
    rows = torch.arange(len(q))
    t, s = p.argmax(-1), q.argmax(-1)
    x = b * ((q[rows, t] / q[rows, s]).log() - (p[rows, t] / p[rows, s]).log())
    return (1 + (-x).exp()).log()


def uld(q, p):
    return (q.sort(-1).values - p.sort(-1).values).abs().sum(-1)


def taid(q, p, t):
    target = q.detach() ** (1 - t) * p**t  # softmax of mixed logits = normalised geometric mixture
    return kl(target / target.sum(-1, keepdim=True), q)


def opd(q, p, y):
    advantage = (ce(q, y) - ce(p, y)).detach()
    return -advantage * -ce(q, y)


def minillm(q, p, y, a):
    """Two rows of three tokens; what a token earns is the mean log-ratio of those after it."""
    rows = torch.arange(len(y))
    ratio = (p / q)[rows, y].log().detach().view(2, 3)
    future = torch.stack([(ratio[:, 1] + ratio[:, 2]) / 2, ratio[:, 2], torch.zeros(2)], 1).view(-1)
    weight = (q / ((1 - a) * q + a * p))[rows, y].detach()
    return kl(q, p) - weight * future * q[rows, y].log()


def mixed(weight, divergence):
    return lambda q, p, y: weight * ce(q, y) + (1 - weight) * divergence(q, p)


def tv(q, p):
    return (p - q).abs().sum(-1) / 2


def reverse(q, p):
    return kl(q, p)


def forward(q, p):
    return kl(p, q)


TOKEN_CASES = [
    ("sft", {}, lambda q, p, y: ce(q, y)),
    ("self-sft", {}, lambda q, p, y: ce(q, y)),
    ("shuffled-teacher", {}, lambda q, p, y: ce(q, y)),
    ("placebo", {}, lambda q, p, y: -ce(q, y)),
    ("placebo", {"advantage": -0.2}, lambda q, p, y: -0.2 * ce(q, y)),
    ("seqkd", {}, lambda q, p, y: ce(q, y)),
    ("kd", {}, mixed(0.5, forward)),
    ("kd", {"ce_weight": 0.2, "temperature": 2}, mixed(0.2, lambda q, p: 4 * kl(soft(p, 2), soft(q, 2)))),
    ("kd", {"ce_weight": 0, "data": "teacher"}, mixed(0, forward)),
    ("kd", {"ce_weight": 1}, mixed(1, forward)),
    ("rkl", {}, mixed(0, reverse)),
    ("rkl", {"ce_weight": 0.3}, mixed(0.3, reverse)),
    ("jsd", {}, mixed(0, lambda q, p: jsd(q, p, 0.5))),
    ("jsd", {"beta": 0}, mixed(0, forward)),
    ("jsd", {"beta": 1}, mixed(0, reverse)),
    ("jsd", {"beta": 0.1, "ce_weight": 0.4}, mixed(0.4, lambda q, p: jsd(q, p, 0.1))),
    ("tvd", {}, mixed(0, tv)),
    ("tvd", {"ce_weight": 0.25}, mixed(0.25, tv)),
    ("gkd", {}, mixed(0, lambda q, p: jsd(q, p, 0.5))),
    ("gkd", {"beta": 0.9, "temperature": 2}, mixed(0, lambda q, p: jsd(soft(q, 2), soft(p, 2), 0.9))),
    ("imitkd", {}, mixed(0, forward)),
    ("imitkd", {"ce_weight": 0.5}, mixed(0.5, forward)),
    ("distillm", {}, mixed(0, lambda q, p: skl(q, p, 0.1))),
    ("distillm", {"kind": "srkl", "alpha": 0.3}, mixed(0, lambda q, p: srkl(q, p, 0.3))),
    ("distillm", {"alpha": 0}, mixed(0, forward)),
    ("distillm2", {}, mixed(0, lambda q, p: skl(q, p, 0.1) + srkl(q, p, 0.1))),
    ("distillm2", {"alpha": 0.4, "beta": 0.5}, mixed(0, lambda q, p: 1.5 * skl(q, p, 0.4) + 0.5 * srkl(q, p, 0.4))),
    ("akl", {}, mixed(0, lambda q, p: akl(q, p, 0.5))),
    ("akl", {"mu": 0.9, "ce_weight": 0.5}, mixed(0.5, lambda q, p: akl(q, p, 0.9))),
    ("akl", {"mu": 0}, mixed(0, lambda q, p: akl(q, p, 0))),
    ("abkd", {}, mixed(0, lambda q, p: alpha_beta(q, p, 0.5, 0.5))),
    ("abkd", {"alpha": 0.2, "beta": 0.7, "ce_weight": 0.1}, mixed(0.1, lambda q, p: alpha_beta(q, p, 0.2, 0.7))),
    ("abkd", {"alpha": 1, "beta": 0}, mixed(0, forward)),
    ("abkd", {"alpha": 0, "beta": 1}, mixed(0, reverse)),
    ("abkd", {"alpha": 0, "beta": 0.5}, mixed(0, lambda q, p: alpha_beta(q, p, 0, 0.5))),
    ("abkd", {"alpha": 0, "beta": 0}, mixed(0, lambda q, p: alpha_beta(q, p, 0, 0))),
    ("taid", {}, mixed(0, lambda q, p: taid(q, p, 0.4))),
    ("taid", {"t": 0.8, "ce_weight": 0.5}, mixed(0.5, lambda q, p: taid(q, p, 0.8))),
    ("taid", {"t": 1}, mixed(0, forward)),
    ("skd", {}, mixed(0, forward)),
    ("dpkd", {}, mixed(0.5, lambda q, p: dpkd(q, p, 0.1))),
    ("dpkd", {"beta": 2, "ce_weight": 0}, mixed(0, lambda q, p: dpkd(q, p, 2))),
    ("uld", {}, lambda q, p, y: ce(q, y) + 1.5 * uld(q, p)),
    ("uld", {"weight": 0.2}, lambda q, p, y: ce(q, y) + 0.2 * uld(q, p)),
    ("opd", {}, opd),
    ("minillm", {}, lambda q, p, y: minillm(q, p, y, 0.2)),
    ("minillm", {"teacher_mix": 0}, lambda q, p, y: minillm(q, p, y, 0)),
]
"""(method, parameters, its loss of probabilities q and p [N, V] and labels y [N] -> [N])."""

NOT_ZERO_AT_EQUALITY = {
    "dpkd": math.log(2),  # a preference, whose gradient does vanish
    "placebo": None,
    "self-sft": None,
    "sft": None,  # cross-entropy throughout
    "shuffled-teacher": None,
    "seqkd": None,
    "uld": None,
}
"""Methods that are no divergence: their value where teacher and student agree (ce_weight 0), None where it depends."""


def without_ce(name):
    return {"ce_weight": 0} if "ce_weight" in METHODS[name].params.model_fields else {}


# ------------------------------------------------------------------------------------------------------ token losses


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize(("name", "params", "equation"), TOKEN_CASES, ids=[f"{n}{p}" for n, p, _ in TOKEN_CASES])
def test_a_token_loss_and_its_gradient_are_those_of_its_equation(name, params, equation, dtype):
    student, teacher, labels = batch(dtype)
    valid = labels != -100

    def reference(z):
        q, p = z[valid].softmax(-1), teacher.double()[valid].softmax(-1)
        return equation(q, p, labels[valid]).mean()

    expected, expected_gradient = graded(reference, student.double())
    value, gradient = graded(lambda z: token_loss(METHODS[name], z, teacher, labels, **params), student)
    assert value.dtype == gradient.dtype == dtype
    rtol, atol = {torch.float64: (1e-9, 1e-11), torch.float32: (1e-4, 1e-6), torch.bfloat16: (1e-2, 1e-4)}[dtype]
    torch.testing.assert_close(value, expected.to(dtype), rtol=rtol, atol=atol)
    torch.testing.assert_close(gradient, expected_gradient.to(dtype), rtol=rtol, atol=atol)


def test_every_built_in_method_has_its_equation_here():
    assert {name for name in TOKEN if name in BUILT_IN} <= {name for name, *_ in TOKEN_CASES}
    assert {name for name in PAIR if name in BUILT_IN} <= {name for name, *_ in PAIR_CASES}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [n for n in TOKEN if NOT_ZERO_AT_EQUALITY.get(n, 0.0) is not None])
def test_where_teacher_and_student_agree_there_is_nothing_to_learn(name, dtype):
    student, _, labels = batch(dtype)
    expected = NOT_ZERO_AT_EQUALITY.get(name, 0.0)
    value, gradient = graded(lambda z: token_loss(METHODS[name], z, student, labels, **without_ce(name)), student)
    assert value.item() == pytest.approx(expected, rel=1e-2 if dtype == torch.bfloat16 else 1e-6, abs=0)
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("name", [n for n in TOKEN if "ce_weight" in METHODS[n].params.model_fields])
def test_ce_weight_mixes_cross_entropy_with_the_divergence(name):
    student, teacher, labels = batch()
    divergence = token_loss(METHODS[name], student, teacher, labels, ce_weight=0)
    expected = 0.3 * token_loss("sft", student, None, labels) + 0.7 * divergence
    torch.testing.assert_close(token_loss(METHODS[name], student, teacher, labels, ce_weight=0.3), expected)


@pytest.mark.parametrize("name", [n for n in TOKEN if "temperature" in METHODS[n].params.model_fields])
def test_temperature_divides_both_sides(name):
    student, teacher, labels = batch()
    factor = 9 if name == "kd" else 1  # only kd has the T^2
    warm = token_loss(METHODS[name], student, teacher, labels, temperature=3, **without_ce(name))
    cold = token_loss(METHODS[name], student / 3, teacher / 3, labels, **without_ce(name))
    torch.testing.assert_close(warm, factor * cold)


def test_the_data_parameter_chooses_the_text_and_nothing_else():
    student, teacher, labels = batch()
    for name in (n for n in TOKEN if "data" in METHODS[n].params.model_fields):
        losses = {
            token_loss(METHODS[name], student, teacher, labels, data=data).item() for data in ("reference", "teacher")
        }
        assert len(losses) == 1
        method = METHODS[name]
        mixed = {"ce_weight": 0.5} if name == "rkl" else {}  # reverse KL alone has no use for fixed text
        for data in (Text.REFERENCE, Text.TEACHER):
            assert method.objective.texts(method.params(data=data, **mixed))[0] == data


@pytest.mark.parametrize(
    ("name", "params", "texts"),
    [
        ("sft", {}, [Text.REFERENCE]),
        ("seqkd", {}, [Text.TEACHER]),
        ("kd", {}, [Text.REFERENCE]),
        ("jsd", {}, [Text.TEACHER, Text.STUDENT]),
        ("jsd", {"beta": 0}, [Text.TEACHER]),
        ("jsd", {"beta": 1}, [Text.STUDENT]),
        ("jsd", {"beta": 1, "ce_weight": 0.5}, [Text.TEACHER, Text.STUDENT]),
        ("rkl", {}, [Text.STUDENT]),
        ("rkl", {"ce_weight": 0.5}, [Text.TEACHER, Text.STUDENT]),
        ("rkl", {"ce_weight": 1}, [Text.TEACHER]),
        ("tvd", {}, [Text.TEACHER, Text.STUDENT]),
        ("distillm2", {}, [Text.TEACHER, Text.SAMPLE]),
        ("opd", {}, [Text.STUDENT]),
        ("placebo", {}, [Text.STUDENT]),
        ("self-sft", {}, [Text.SAMPLE]),
        ("shuffled-teacher", {}, [Text.SHUFFLED]),
        ("minillm", {}, [Text.STUDENT]),
        ("skd", {}, [Text.STUDENT]),
        ("taid", {}, [Text.REFERENCE]),
        ("gkd", {}, [Text.REFERENCE, Text.STUDENT]),
        ("gkd", {"on_policy": 0}, [Text.REFERENCE]),
        ("gkd", {"on_policy": 1}, [Text.STUDENT]),
        ("imitkd", {"data": "teacher"}, [Text.TEACHER, Text.STUDENT]),
        ("distillm", {}, [Text.REFERENCE, Text.STUDENT, Text.REPLAY]),
    ],
)
def test_what_a_method_trains_on_is_what_it_may_ask_for_and_no_more(name, params, texts):
    assert list(METHODS[name].objective.texts(METHODS[name].params(**params))) == texts


def test_text_only_methods_take_no_logits():
    for name, access in {"sft": Access.NONE, "seqkd": Access.TEXT}.items():
        assert not METHODS[name].objective.teacher_logits
        assert METHODS[name].access is access


def test_uld_compares_vocabularies_of_different_sizes():
    student, teacher, labels = batch()
    wider = torch.cat([teacher, torch.full((3, 5, 4), -math.inf, dtype=torch.float64)], -1)
    torch.testing.assert_close(token_loss("uld", student, wider, labels), token_loss("uld", student, teacher, labels))


# ------------------------------------------------------------------------------- schedules and returns of the papers


def test_taid_moves_at_least_linearly_and_faster_while_the_loss_falls():
    taid = METHODS["taid"]
    params, schedule = taid.params(alpha=0.1), taid.objective.schedule
    falling = flat = schedule.start(params)
    for step in range(5):
        falling = schedule.update(params, falling, 0.0, 2.0**-step, None)
        flat = schedule.update(params, flat, 0.0, 1.0, None)
    assert params.t_start < flat["t"] < falling["t"] < 1
    assert flat["t"] == pytest.approx(1 - 0.6 * 0.95**5)  # sigmoid(0) = 1/2: each step closes 5 % of what is left
    assert schedule.update(params, flat, 1.0, 1.0, None)["t"] == params.t_end
    assert schedule.update(params, flat, 0.9, 1.0, None)["t"] == pytest.approx(0.4 + 0.9 * 0.6)
    assert schedule.apply(params, flat, 0.0).t == flat["t"]
    assert schedule.apply(taid.params(t=0.7), flat, 0.0).t == 0.7


def test_imitkd_starts_on_fixed_text_and_ends_almost_wholly_on_the_students():
    imitkd = METHODS["imitkd"]
    (term,), apply = imitkd.objective.terms, imitkd.objective.schedule.apply

    def shares(progress, **params):
        return dict(term.sources(apply(imitkd.params(**params), {}, progress)))

    assert shares(0.0) == {Text.REFERENCE: 1, Text.STUDENT: 0}
    assert shares(1.0) == pytest.approx({Text.REFERENCE: 1 / 200, Text.STUDENT: 1 - 1 / 200})
    assert shares(0.5, fixed=0.25) == {Text.REFERENCE: 0.25, Text.STUDENT: 0.75}
    assert term.draw == "sequence"


def test_distillm_turns_to_student_text_when_validation_worsens_and_from_fresh_to_replayed():
    distillm = METHODS["distillm"]
    (term,), schedule, params = distillm.objective.terms, distillm.objective.schedule, distillm.params()
    state, seen = schedule.start(params), []
    for validation in (1.0, None, 0.9, 1.1, 1.0, None, 1.05):
        state = schedule.update(params, state, 0.5, 1.0, validation)
        seen.append(state["share"])
    assert seen == pytest.approx([0, 0, 0, 0.1, 0.1, 0.1, 0.2])
    assert schedule.update(params, {"share": 0.95, "validation": 1.0}, 0.5, 1.0, 1.1)["share"] == 1
    shares = dict(term.sources(schedule.apply(params, {"share": 0.4}, 0.25)))
    assert shares == pytest.approx({Text.REFERENCE: 0.6, Text.STUDENT: 0.3, Text.REPLAY: 0.1})
    fixed = dict(term.sources(schedule.apply(distillm.params(student=1, replayed=0.5), {"share": 0.4}, 0.25)))
    assert fixed == {Text.REFERENCE: 0, Text.STUDENT: 0.5, Text.REPLAY: 0.5}
    assert term.sampling(params).replay == 1000


def test_minillm_rewards_a_token_by_the_mean_log_ratio_of_what_follows():
    minillm = METHODS["minillm"]
    (term,) = minillm.objective.terms
    student = torch.tensor([[-1.0, -2.0, -3.0, 0.0]])
    trace = Trace(
        student=student,
        teacher=torch.tensor([[-0.5, -1.0, -1.0, 0.0]]),
        behaviour=student - torch.tensor([[0.0, math.log(2), 0.0, 0.0]]),
        mask=torch.tensor([[1.0, 1.0, 1.0, 0.0]]),
    )
    # r = 0.5, 1, 2: means of what follows are 1.5, 2, 0; the second token was drawn half as often as q would
    torch.testing.assert_close(term.advantage(trace, minillm.params()), torch.tensor([[1.5, 4.0, 0.0, 0.0]]))


# ------------------------------------------------------------------------------------------------------- pair losses


def sigmoid_loss(x):
    return math.log1p(math.exp(-x))


def log_odds(mean):
    return math.log(math.exp(mean) / (1 - math.exp(mean)))


def hinge(margin, chosen, rejected):
    return max(0.0, margin - chosen + rejected)


# (method, parameters, loss of one pair: log q(y+), log q(y-), lengths, reference log-probabilities, scores)
PAIR_CASES = [
    ("plad", {"beta": 1, "sft_weight": 0}, lambda c, r, nc, nr, rc, rr, sc, sr: hinge(1, c, r)),
    ("plad", {}, lambda c, r, nc, nr, rc, rr, sc, sr: hinge(10, c, r) - 30 * c / nc),
    (
        "plad",
        {"beta": 4, "logprob": "mean", "sft_weight": 1},
        lambda c, r, nc, nr, rc, rr, sc, sr: hinge(4, c / nc, r / nr) - c / nc,
    ),
    (
        "plad",
        {"loss": "margin", "beta": 5, "logprob": "sum", "sft_weight": 0.5},
        lambda c, r, nc, nr, rc, rr, sc, sr: hinge(5 * (sc - sr), c, r) - 0.5 * c / nc,
    ),
    (
        "plad",
        {"loss": "margin", "beta": 1, "logprob": "mean", "sft_weight": 0},
        lambda c, r, nc, nr, rc, rr, sc, sr: hinge(sc - sr, c / nc, r / nr),
    ),
    ("slic", {}, lambda c, r, nc, nr, rc, rr, sc, sr: hinge(1, c, r) - c / nc),
    ("slic", {"margin": 3, "sft_weight": 0.2}, lambda c, r, nc, nr, rc, rr, sc, sr: hinge(3, c, r) - 0.2 * c / nc),
    ("dpo", {}, lambda c, r, nc, nr, rc, rr, sc, sr: sigmoid_loss(0.1 * ((c - rc) - (r - rr)))),
    ("dpo", {"beta": 2}, lambda c, r, nc, nr, rc, rr, sc, sr: sigmoid_loss(2 * ((c - rc) - (r - rr)))),
    ("rso-hinge", {}, lambda c, r, nc, nr, rc, rr, sc, sr: max(0.0, 1 - 0.05 * ((c - rc) - (r - rr)))),
    ("rso-hinge", {"gamma": 1}, lambda c, r, nc, nr, rc, rr, sc, sr: max(0.0, 1 - ((c - rc) - (r - rr)))),
    ("simpo", {}, lambda c, r, nc, nr, rc, rr, sc, sr: sigmoid_loss(2 * (c / nc - r / nr) - 1)),
    ("simpo", {"beta": 10, "gamma": 3}, lambda c, r, nc, nr, rc, rr, sc, sr: sigmoid_loss(10 * (c / nc - r / nr) - 3)),
    (
        "orpo",
        {},
        lambda c, r, nc, nr, rc, rr, sc, sr: -c / nc + 0.1 * sigmoid_loss(log_odds(c / nc) - log_odds(r / nr)),
    ),
    (
        "orpo",
        {"weight": 2},
        lambda c, r, nc, nr, rc, rr, sc, sr: -c / nc + 2 * sigmoid_loss(log_odds(c / nc) - log_odds(r / nr)),
    ),
]
ROLES = (
    "chosen_logprob",
    "rejected_logprob",
    "chosen_length",
    "rejected_length",
    "reference_chosen",
    "reference_rejected",
    "chosen_score",
    "rejected_score",
)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(("name", "params", "equation"), PAIR_CASES, ids=[f"{n}{p}" for n, p, _ in PAIR_CASES])
def test_a_pair_loss_and_its_gradient_are_those_of_its_equation(name, params, equation, dtype):
    rows, columns = pairs(dtype)
    chosen, rejected = columns[0].requires_grad_(), columns[1].requires_grad_()
    value = pair_loss(name, *columns, **params)
    value.backward()
    assert value.dtype == dtype
    assert value.item() == pytest.approx(sum(equation(*row) for row in rows) / len(rows), rel=1e-5)
    step = 1e-6
    for i, row in enumerate(rows):
        for column, gradient in enumerate((chosen.grad, rejected.grad)):
            up, down = list(row), list(row)
            up[column] += step
            down[column] -= step
            slope = (equation(*up) - equation(*down)) / (2 * step) / len(rows)
            assert gradient[i].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_dpo_without_weight_is_log_2():
    _, columns = pairs()
    assert pair_loss("dpo", *columns, beta=0).item() == pytest.approx(math.log(2))


def test_plad_rank_is_a_reference_free_hinge():
    _, columns = pairs()
    plad = pair_loss("plad", *columns, logprob="sum", sft_weight=0, beta=20)
    zero = torch.zeros_like(columns[0])
    hinge = pair_loss("rso-hinge", *columns[:4], zero, zero, gamma=1 / 20)
    torch.testing.assert_close(plad, 20 * hinge)  # beta = 1 / gamma, and the hinge is in units of it


def test_plad_margins_are_not_clamped():
    _, columns = pairs()
    value = pair_loss("plad", *(c[3:] for c in columns), loss="margin", logprob="sum", sft_weight=0, beta=5)
    assert value.item() == pytest.approx(5 * (0.2 - 0.6) + 12 - 9)


def test_scores_are_asked_for_only_where_they_are_read():
    plad = METHODS["plad"]
    assert plad.objective.scorer(plad.params()) is None
    assert plad.objective.scorer(plad.params(loss="margin")) == "rouge-l"


def test_orpo_odds_are_exact_for_near_certain_and_hopeless_responses():
    from plad_bench_plugins.methods.orpo import log_odds

    means = torch.tensor([-1e-12, -1e-3, -0.7, -50.0], dtype=torch.float64)
    expected = [math.log(math.exp(x) / -math.expm1(x)) for x in means.tolist()]
    torch.testing.assert_close(log_odds(means), torch.tensor(expected, dtype=torch.float64))


# -------------------------------------------------------------------------------------------------------- wrong calls


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s, t, y: token_loss("jds", s, t, y), "Did you mean jsd"),
        (lambda s, t, y: token_loss("jsd", s, t, y, betta=1), "Did you mean beta"),
        (lambda s, t, y: token_loss("jsd", s, t, y, beta=2), "<= 1"),
        (lambda s, t, y: token_loss("jsd", s, t, y, beta=math.nan), "jsd"),
        (lambda s, t, y: token_loss("dpo", s, t, y), "Use pair_loss"),
        (lambda s, t, y: token_loss("kd", s, None, y), "needs teacher_logits"),
        (lambda s, t, y: token_loss("kd", s, t[..., :-1], y), "token by token"),
        (lambda s, t, y: token_loss("kd", s[:, :-1], t, y), "do not match labels"),
        (lambda s, t, y: pair_loss("kd", s[0, 0], s[0, 0], y, y), "Use token_loss"),
        (lambda s, t, y: pair_loss("dpo", s[0, 0], s[0, 0], s[0, 0], s[0, 0]), "needs reference_chosen"),
        (lambda s, t, y: pair_loss("plad", s[0, 0], s[0, 0], s[0, 0], s[0, 0], loss="margin"), "needs chosen_score"),
        (lambda s, t, y: pair_loss("plad", s[0, 0], s[0, 0, :2], s[0, 0], s[0, 0]), "does not match"),
        (lambda s, t, y: pair_loss("plad", s[0, 0], s[0, 0], s[0, 0], s[0, 0], loss="ranking"), "rank or margin"),
    ],
)
def test_a_wrong_call_says_what_to_do(call, message):
    with pytest.raises(UsageError) as caught:
        call(*batch())
    assert isinstance(caught.value, PladBenchError)
    assert message in str(caught.value)


def test_the_examples_of_the_auditing_page_give_what_it_says():
    page = Path(__file__).parents[2] / "docs" / "auditing.md"
    examples = "\n".join(re.findall(r"```pycon\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    test = doctest.DocTestParser().get_doctest(examples, {}, page.name, str(page), 0)
    assert len(test.examples) > 10
    output = []
    doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE).run(test, out=output.append)
    assert not output, "".join(output)


# ----------------------------------------------------------------------------------------- what is declared, defaults


def defaults():
    """Version and default parameters of every built-in method."""
    return {
        name: {"version": METHODS[name].version, "params": METHODS[name].params().public()} for name in sorted(BUILT_IN)
    }


def test_no_default_changes_without_a_new_version():
    known, now = json.loads(SNAPSHOT.read_text())["method"], defaults()
    for name in known.keys() & now.keys():
        if known[name]["params"] != now[name]["params"]:
            assert now[name]["version"] > known[name]["version"], (
                f"the defaults of {name} changed: raise its `version`, then run `python tests/builtin/test_methods.py`"
            )
    assert known == now, f"methods changed: run `python tests/builtin/test_methods.py` and commit {SNAPSHOT.name}"


if __name__ == "__main__":
    if SNAPSHOT.exists():
        before = json.loads(SNAPSHOT.read_text())["method"]
        for name, entry in defaults().items():
            old = before.get(name, entry)
            if entry["params"] != old["params"] and entry["version"] <= old["version"]:
                sys.exit(f"the defaults of {name} changed: raise its version first")
    SNAPSHOT.write_text(json.dumps({"method": defaults()}, indent=2, sort_keys=True) + "\n")
