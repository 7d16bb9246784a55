"""Claims about components of all kinds, and the verdicts on a component."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from plad_bench.conformance import methods, sources, texts
from plad_bench.conformance.claims import CLAIMS, Claim, Verdict, claim, default_params, see
from plad_bench.contract import components
from plad_bench.contract.params import descriptions
from plad_bench.contract.registry import KINDS, Registry


def verdicts(component: components.Component, registry: Registry | None = None) -> list[Verdict]:
    """Test all claims that apply to a component.

    With a registry, the names that it mentions (a default student, metrics, a teacher) are looked up as well.
    """
    kind = kind_of(component)
    every = [*CLAIMS, *_lookups(registry)]
    return [c.verdict(component) for c in every if c.kind in {"", kind} and c.applies(component)]


def broken(component: components.Component) -> list[str]:
    """The failed claims of a component with remedies, without advice; empty if all hold."""
    return [str(v) for v in verdicts(component) if v.level == "failed"]


def kind_of(component: components.Component) -> str:
    """The kind of a record.

    Raises:
        TypeError: for anything else.
    """
    for kind, (_, record) in KINDS.items():
        if isinstance(component, getattr(components, record)):
            return kind
    msg = f"{component!r} is not a component: give a record such as a plad_bench.Method"
    raise TypeError(msg)


@claim("its summary is one sentence", remedy="Give `summary` one line that ends with a full stop.")
def _summary(component: Any) -> None:
    see(component.summary.strip(), "summary is empty")
    see("\n" not in component.summary and component.summary.endswith((".", "?")), f"summary is {component.summary!r}")


@claim(
    "its version is an integer of at least 1",
    remedy="Begin with version=1, and raise it by 1 whenever the same parameters would give another result.",
)
def _version(component: Any) -> None:
    see(type(component.version) is int and component.version >= 1, f"version is {component.version!r}")


@claim("every parameter has a description", remedy="Write a docstring below each field of the class of its parameters.")
def _described(component: Any) -> None:
    bare = [name for name, text in descriptions(component.params).items() if not text]
    see(not bare, f"no text below {', '.join(bare)}")


@claim(
    "every default is within its own range, and can be written as JSON",
    remedy="Choose a default that the field itself would accept: text, a finite number, a boolean, None or a list.",
)
def _defaults(component: Any) -> None:
    params = default_params(component)
    for name, info in component.params.model_fields.items():
        default = info.get_default(call_default_factory=True)
        see(getattr(params, name) == default, f"{name}={default!r} becomes {getattr(params, name)!r}")
    json.dumps(params.public(), allow_nan=False)


def _lookups(registry: Registry | None) -> Iterator[Claim]:
    """Claims about the selectors in a component, which need a registry."""
    if registry is None:
        return
    from plad_bench.plan.chosen import choose

    def task(component: Any) -> None:
        choose(registry, "student", component.student)
        choose(registry, "metric", ",".join(component.metrics))

    def student(component: Any) -> None:
        if component.teacher:
            choose(registry, "teacher", component.teacher)

    remedy = "Correct the name; `plad-bench plugins` lists what is registered."
    yield Claim("its default student and metrics exist", "task", task, remedy)
    yield Claim("its default teacher exists", "student", student, remedy)


__all__ = ["broken", "kind_of", "methods", "sources", "texts", "verdicts"]
