"""What the harness expects of any component, as claims that tests and `plad-bench check-plugin` hold it against."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from plad_bench.contract import components, enums, examples, models, objectives
from plad_bench.contract.errors import MissingError, UsageError
from plad_bench.contract.params import source_of
from plad_bench.contract.registry import KINDS, Registry, configure, resolve

Test = Callable[[Any], None]


@dataclass(frozen=True)
class Claim:
    """Something that is true of every component of a kind that `applies` accepts."""

    text: str
    kind: str
    """Empty: of every kind."""
    test: Test
    """Raises AssertionError where it does not hold, and MissingError where it cannot be told here."""
    applies: Callable[[Any], bool]
    advice: bool
    """Holds for what is usual, and a component may have reasons not to keep it."""


@dataclass(frozen=True)
class Verdict:
    """How a component stands to a claim."""

    claim: str
    level: Literal["ok", "warning", "failed", "unknown"]
    problem: str = ""


CLAIMS: list[Claim] = []


def verdicts(component: components.Component, registry: Registry | None = None) -> list[Verdict]:
    """How a component stands to every claim that applies to it. A registry lets it be asked what selectors mean."""
    return [_verdict(claim, component) for claim in [*CLAIMS, *_selectors(registry)] if _concerns(claim, component)]


def broken(component: components.Component) -> list[str]:
    """The claims that a component does not keep, advice left out; empty if all is well. For the tests of a plugin."""
    return [f"{v.claim}: {v.problem}" for v in verdicts(component) if v.level == "failed"]


def kind_of(component: components.Component) -> str:
    """The kind of a record."""
    return next(kind for kind, (_, record) in KINDS.items() if isinstance(component, getattr(components, record)))


def _concerns(claim: Claim, component: components.Component) -> bool:
    return claim.kind in {"", kind_of(component)} and claim.applies(component)


def _verdict(claim: Claim, component: components.Component) -> Verdict:
    try:
        claim.test(component)
    except MissingError as error:
        return Verdict(claim.text, "unknown", error.message)
    except AssertionError as error:
        lines = str(error).strip().splitlines()
        return Verdict(claim.text, "warning" if claim.advice else "failed", " ".join(filter(None, lines[:4])))
    except (Exception, SystemExit) as error:  # noqa: BLE001  somebody else's code
        return Verdict(claim.text, "failed", f"{type(error).__name__}: {error}")
    return Verdict(claim.text, "ok")


def claim(
    text: str, kind: str = "", *, applies: Callable[[Any], bool] = lambda component: True, advice: bool = False
) -> Callable[[Test], Test]:
    """Register a claim."""

    def register(test: Test) -> Test:
        CLAIMS.append(Claim(text, kind, test, applies, advice))
        return test

    return register


def _see(condition: object, problem: str) -> None:
    if not condition:
        raise AssertionError(problem)


# ---------------------------------------------------------------------------------------------- what all have in common


@claim("it says what it is in one sentence")
def _summary(component: Any) -> None:
    _see(component.summary.strip(), "summary is empty")
    _see("\n" not in component.summary and component.summary.endswith((".", "?")), f"summary is {component.summary!r}")


@claim("its version is a whole number from 1 on")
def _version(component: Any) -> None:
    _see(type(component.version) is int and component.version >= 1, f"version is {component.version!r}")


@claim("every parameter has a description")
def _described(component: Any) -> None:
    bare = [name for name, info in component.params.model_fields.items() if not info.description]
    _see(not bare, f"no text below {', '.join(bare)}")


@claim("every default is a value that may be given, and can be written as JSON")
def _defaults(component: Any) -> None:
    params = _params(component)
    for name, info in component.params.model_fields.items():
        default = info.get_default(call_default_factory=True)
        _see(getattr(params, name) == default, f"{name}={default!r} becomes {getattr(params, name)!r}")
    json.dumps(params.public(), allow_nan=False)


def _params(component: Any) -> Any:
    """Default parameters; MissingError for a component that cannot do without some."""
    try:
        return configure(component, {})
    except UsageError as error:
        raise MissingError(f"it needs parameters: {error.message}") from None


# ------------------------------------------------------------------------------------------------------------- methods


def batch(dtype: Any = None, scale: float = 2.0, vocabulary: int = 7) -> tuple[Any, Any, Any]:
    """Student and teacher logits [3, 5, V] and labels [3, 5] with ragged responses, one row fully masked."""
    import torch

    generator = torch.Generator().manual_seed(0)
    shape = (3, 5, vocabulary)
    student, teacher = (scale * torch.randn(shape, generator=generator, dtype=torch.float64) for _ in "qp")
    labels = torch.randint(0, vocabulary, shape[:2], generator=generator)
    labels[0, :2] = labels[1, 3:] = labels[2, :] = -100
    return student.to(dtype or torch.float64), teacher.to(dtype or torch.float64), labels


def graded(loss: Callable[..., Any], student: Any, *rest: Any) -> tuple[Any, Any]:
    """The value of a loss and its gradient with respect to its first argument."""
    import torch

    student = student.clone().requires_grad_()
    value = loss(student, *rest)
    (gradient,) = torch.autograd.grad(value, student)
    return value.detach(), gradient


def _of_tokens(method: Any) -> bool:
    return isinstance(method.objective, objectives.TokenObjective)


def _of_pairs(method: Any) -> bool:
    return isinstance(method.objective, objectives.PairObjective)


def _token_by_token(method: Any) -> bool:
    return _of_tokens(method) and not any(term.advantage for term in method.objective.terms)


def _token_loss(method: Any, student: Any, teacher: Any, labels: Any) -> Any:
    from plad_bench.testing import token_loss

    _params(method)
    return token_loss(method, student, teacher, labels)


@claim("it names paper, title and equation, and where each default comes from", "method")
def _sourced(method: Any) -> None:
    unnamed = [name for name in ("paper", "title", "equation") if not getattr(method, name)]
    _see(not unnamed, f"{', '.join(unnamed)} empty")
    unsourced = [name for name in method.params.model_fields if not source_of(method.params, name)]
    _see(not unsourced, f"no source for the default of {', '.join(unsourced)}")
    _see("lr" in method.params.model_fields, "no parameter lr: params must extend MethodParams")


@claim("loss and gradient are finite, in the dtype of the logits", "method", applies=_of_tokens)
def _finite(method: Any) -> None:
    import torch

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        student, teacher, labels = batch(dtype)
        value, gradient = graded(lambda z, t=teacher, y=labels: _token_loss(method, z, t, y), student)
        _see(value.dtype == gradient.dtype == dtype, f"of {dtype} logits it makes a loss of {value.dtype}")
        _see(value.isfinite() and gradient.isfinite().all(), f"in {dtype} the loss is {value.item()}")


@claim("there is something to learn, from valid positions only", "method", applies=_of_tokens)
def _masked(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    masked = labels == -100
    value, gradient = graded(lambda z: _token_loss(method, z, teacher, labels), student)
    _see(torch.equal(gradient[masked], torch.zeros_like(gradient[masked])), "masked positions have a gradient")
    _see(gradient[~masked].abs().sum() > 0, "no position has a gradient")
    student[masked], teacher[masked] = 1e4, -1e4
    _see(torch.equal(_token_loss(method, student, teacher, labels), value), "masked logits change the loss")


@claim("a fully masked batch gives zero", "method", applies=_of_tokens)
def _empty(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    nothing = torch.full_like(labels, -100)
    value, gradient = graded(lambda z: _token_loss(method, z, teacher, nothing), student)
    _see(value.item() == 0, f"it gives {value.item()}")
    _see(torch.equal(gradient, torch.zeros_like(gradient)), "it has a gradient")


@claim("a token's loss does not depend on its row, nor on the other tokens", "method", applies=_token_by_token)
def _rows(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    valid = labels != -100
    flat = [tensor[valid][None] for tensor in (student, teacher, labels)]
    value = _token_loss(method, student, teacher, labels)
    torch.testing.assert_close(_token_loss(method, *flat), value)
    alone = [_token_loss(method, *(tensor[:, i : i + 1] for tensor in flat)) for i in range(flat[2].shape[1])]
    torch.testing.assert_close(torch.stack(alone).mean(), value)


@claim("the order of the vocabulary does not matter", "method", applies=_of_tokens)
def _permuted(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    relabelled = torch.where(labels == -100, labels, order.argsort()[labels.clamp_min(0)])
    permuted = _token_loss(method, student[..., order], teacher[..., order], relabelled)
    torch.testing.assert_close(permuted, _token_loss(method, student, teacher, labels))


@claim("adding a constant to the logits does not matter", "method", applies=_of_tokens, advice=True)
def _shifted(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    shifted = _token_loss(method, student + 5, teacher - 3, labels)
    torch.testing.assert_close(shifted, _token_loss(method, student, teacher, labels))


@claim("tokens that are impossible on both sides (-inf) do not matter", "method", applies=_of_tokens)
def _padded(method: Any) -> None:
    import torch

    student, teacher, labels = batch()
    pad = torch.full((3, 5, 2), -math.inf, dtype=torch.float64)
    wide = torch.cat([teacher, pad], -1)
    value, gradient = graded(lambda z: _token_loss(method, z, wide, labels), torch.cat([student, pad], -1))
    remedy = "0 * -inf is NaN: use the functions of plad_bench.learn.divergences, or set -inf to 0 where p or q is 0"
    _see(value.isfinite(), f"the loss is {value.item()}; {remedy}")
    torch.testing.assert_close(value, _token_loss(method, student, teacher, labels).detach())
    _see(gradient.isfinite().all(), f"the gradient is not finite; {remedy}")


@claim("the teacher gets no gradient", "method", applies=_of_tokens)
def _constant(method: Any) -> None:
    student, teacher, labels = batch()
    teacher.requires_grad_()
    _token_loss(method, student.requires_grad_(), teacher, labels).backward()
    _see(teacher.grad is None, "it does")


def pairs(dtype: Any = None) -> tuple[list[tuple[Any, ...]], list[Any]]:
    """Four pairs: clearly right, clearly wrong, close, and one whose rejected response scores higher.

    Rows of (log q(y+), log q(y-), lengths, reference log-probabilities, scores), and the same as tensors by column.
    """
    import torch

    rows = [
        (-4.0, -30.0, 8, 10, -6.0, -25.0, 0.9, 0.1),
        (-30.0, -5.0, 10, 9, -28.0, -9.0, 0.7, 0.2),
        (-10.0, -10.25, 6, 7, -10.0, -10.0, 0.5, 0.4),
        (-12.0, -9.0, 12, 5, -11.0, -9.5, 0.2, 0.6),
    ]
    columns = [torch.tensor(column, dtype=dtype or torch.float64) for column in zip(*rows, strict=True)]
    columns[2:4] = [column.long() for column in columns[2:4]]
    return rows, columns


def _pair_loss(method: Any, *columns: Any) -> Any:
    from plad_bench.testing import pair_loss

    _params(method)
    return pair_loss(method, *columns)


@claim("loss and gradient are finite however sure the student is, in the dtype given", "method", applies=_of_pairs)
def _finite_pairs(method: Any) -> None:
    import torch

    length = torch.tensor([3, 4])
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        zero, far = torch.zeros(2, dtype=dtype), torch.full((2,), -1e4, dtype=dtype)
        rest = (length, length, far, far, zero, zero)
        for chosen, rejected in ((zero, zero), (zero, far), (far, zero)):
            value, gradient = graded(lambda c, r, rest=rest: _pair_loss(method, c, r, *rest), chosen, rejected)
            _see(value.dtype == dtype, f"of {dtype} log-probabilities it makes a loss of {value.dtype}")
            _see(value.isfinite() and gradient.isfinite().all(), f"in {dtype} the loss is {value.item()}")


@claim("a pair's loss does not depend on the other pairs", "method", applies=_of_pairs)
def _independent(method: Any) -> None:
    import torch

    _, columns = pairs()
    alone = [_pair_loss(method, *(column[i : i + 1] for column in columns)) for i in range(4)]
    torch.testing.assert_close(torch.stack(alone).mean(), _pair_loss(method, *columns))


@claim("it pushes the chosen up and the rejected down", "method", applies=_of_pairs, advice=True)
def _pushes(method: Any) -> None:
    _, columns = pairs()
    chosen, rejected = columns[0].requires_grad_(), columns[1].requires_grad_()
    _pair_loss(method, *columns).backward()
    _see(chosen.grad is not None and (chosen.grad <= 0).all(), "it pushes a chosen response down")
    _see(rejected.grad is not None and (rejected.grad >= 0).all(), "it pushes a rejected response up, or leaves it")
    _see(chosen.grad[1] < 0 < rejected.grad[1], "it leaves the pair that is clearly wrong")


# ------------------------------------------------------------------------------------------------- metrics and builders

_RESPONSES = ("a red house by the river", "", "house house house house", 'odd <b>|text|</b>\n"\u00e9\u4e2d"', "a red")


def _examples() -> list[examples.Scored]:
    return [
        examples.Scored(
            id=f"example-{i}",
            prompt=f"Say something, {i}.",
            references=("a red house by the river", "a house"),
            meta={},
            response=response,
            teacher="a red house",
        )
        for i, response in enumerate(_RESPONSES)
    ]


def _words(selector: str) -> Callable[[Any], list[float]]:
    """Stands in for any scorer: the number of words."""
    return lambda examples: [float(len(e.response.split())) for e in examples]


def _reads_text(metric: Any) -> bool:
    return not metric.needs - {enums.Need.TEACHER, enums.Need.REFERENCES}


def _values(metric: Any, examples: list[examples.Scored]) -> list[float]:
    params = _params(metric)
    metric.require(params)
    given = resolve(metric.score)(examples, params, _words)
    return [float(value) for value in (given.values() if isinstance(given, Mapping) else given)]


@claim("better is higher, lower or None", "metric")
def _direction(metric: Any) -> None:
    _see(metric.better in {"higher", "lower", None}, f"it is {metric.better!r}")


@claim("it gives every example a number, or NaN, and never infinity", "metric", applies=_reads_text)
def _scored(metric: Any) -> None:
    examples = _examples()
    values = _values(metric, examples)
    _see(len(values) == len(examples), f"{len(values)} values for {len(examples)} examples")
    _see(not any(map(math.isinf, values)), f"one of {values}")


@claim("it gives the same numbers again, whatever the order of the examples", "metric", applies=_reads_text)
def _repeats(metric: Any) -> None:
    examples = _examples()
    one, other = _values(metric, examples), _values(metric, examples[::-1])[::-1]
    same = all(a == b or (math.isnan(a) and math.isnan(b)) for a, b in zip(one, other, strict=True))
    _see(same, f"{one}, then {other}")


def _candidates(samples: int) -> list[examples.Candidates]:
    def responses(*texts: str) -> tuple[examples.Response, ...]:
        return tuple(examples.Response(text=text) for text in texts)

    return [
        examples.Candidates(
            id=f"example-{i}",
            prompt=f"Say something, {i}.",
            responses={
                enums.Text.REFERENCE: responses("a red house by the river", "a house"),
                enums.Text.TEACHER: responses(f"a house by river {i}"),
                enums.Text.SAMPLE: responses(*("a house " + "and another " * (n + i) for n in range(samples))),
            },
        )
        for i in range(4)
    ]


@claim("it makes pairs of the examples it is given", "pair builder")
def _built(builder: Any) -> None:
    params = _params(builder)
    candidates = _candidates(max(2, builder.samples(params)))
    made = list(resolve(builder.build)(candidates, params, _words))
    _see(made, f"no pair of {len(candidates)} examples")
    _see(all(isinstance(pair, examples.Pair) for pair in made), "not all that it yields are of plad_bench.Pair")
    unknown = {pair.id for pair in made} - {c.id for c in candidates}
    _see(not unknown, f"pairs of unknown examples: {', '.join(sorted(unknown))}")


# --------------------------------------------------------------------------------------------------- tasks and models

_LOOKED_AT = 200
"""Examples of a task that are looked at."""


@claim("its examples have a prompt, references that are text, and JSON beside them", "task")
def _examples_of(task: Any) -> None:
    params = _params(task)
    task.require(params)
    rows: Iterable[Any] = itertools.islice(resolve(task.load)(params), _LOOKED_AT)
    found = []
    for row in rows:
        known = isinstance(row, examples.Loaded)
        _see(known, f"it yields {type(row).__name__}")
        found += [row] if isinstance(row, examples.Example) else []
    _see(len({e.prompt for e in found}) > 1, f"{len(found)} examples, not two different prompts")
    for example in found:
        _see(example.prompt.strip(), "a prompt is empty")
        _see(isinstance(example.references, tuple), f"references are a {type(example.references).__name__}")
        _see(all(isinstance(r, str) and r.strip() for r in example.references), f"references {example.references!r}")
        json.dumps(example.meta, allow_nan=False)


@claim("it says what it is made from and under which licence", "task")
def _licensed(task: Any) -> None:
    _see(task.dataset and task.licence, "dataset or licence is empty")


def _model(component: Any) -> None:
    source = component.model(_params(component))
    _see(isinstance(source, models.ModelSource), f"model gives {type(source).__name__}")


claim("it names its model", "student")(_model)


@claim("it provides something, and its model says where that comes from", "teacher")
def _provides(teacher: Any) -> None:
    _see(
        teacher.provides and teacher.provides <= set(enums.Access),
        f"it provides {set(teacher.provides) or 'nothing'}",
    )


@claim("it answers every request", "teacher", applies=lambda teacher: teacher.immediate)
def _answers(teacher: Any) -> None:
    from plad_bench.testing import answers

    given = answers(teacher, [e.prompt for e in _examples()], **_params(teacher).model_dump())
    _see(all(given), f"{sum(map(bool, given))} of {len(given)} requests have an answer")


def _selectors(registry: Registry | None) -> Iterator[Claim]:
    """Claims about what a component names, for which one must know what is registered."""
    if registry is None:
        return
    from plad_bench.plan.chosen import choose

    def task(component: Any) -> None:
        choose(registry, "student", component.student)
        choose(registry, "metric", ",".join(component.metrics))

    def student(component: Any) -> None:
        if component.teacher:
            choose(registry, "teacher", component.teacher)

    yield Claim("its default student and metrics exist", "task", task, lambda component: True, advice=False)
    yield Claim("its default teacher exists", "student", student, lambda component: True, advice=False)
