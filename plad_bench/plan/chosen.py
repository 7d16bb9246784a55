"""Selected components, with validated parameters."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from plad_bench.contract import hub
from plad_bench.contract.errors import NothingSelectedError
from plad_bench.contract.models import Published
from plad_bench.contract.params import content_hash, text_hash
from plad_bench.contract.registry import Registered, Registry
from plad_bench.plan.selectors import parse

if TYPE_CHECKING:
    from plad_bench.contract.params import Params


@dataclass(frozen=True)
class Chosen:
    """A selected component with its parameters."""

    kind: str
    registered: Registered
    params: Params
    scorer: Chosen | None = None
    """The metric given by its parameter `scorer`, or by its pair builder."""
    named: str = ""
    """The scorer as written in the parameter."""
    by_recipe: tuple[str, ...] = field(default=(), compare=False)
    """Names of parameters that a recipe has set."""

    @property
    def component(self) -> Any:
        """The record."""
        return self.registered.component

    @functools.cached_property
    def label(self) -> str:
        """The canonical selector: the name, and the parameters that differ from their defaults."""
        shown = []
        for name, info in type(self.params).model_fields.items():
            value, flags = getattr(self.params, name), _flags(info)
            if flags.get("keyed", True) and value != info.get_default(call_default_factory=True):
                shown.append(f"{name}={_shown(self._publishable.get(name, value), flags)}")
        return f"{self.component.name}[{','.join(shown)}]" if shown else str(self.component.name)

    @property
    def selector(self) -> str:
        """The selector for this machine: like the label, with full paths and parameters that are not keyed."""
        values = {n: (getattr(self.params, n), i) for n, i in type(self.params).model_fields.items()}
        changed = {n: v for n, (v, i) in values.items() if v != i.get_default(call_default_factory=True)}
        shown = [f"{name}={_shown(value, {})}" for name, value in changed.items()]
        return f"{self.component.name}[{','.join(shown)}]" if shown else str(self.component.name)

    def public(self) -> dict[str, Any]:
        """The part that is keyed and recorded, without local paths."""
        return {**self._public, **({"commit": self.commit} if self.published else {})}

    @functools.cached_property
    def _public(self) -> dict[str, Any]:
        """Kept, because local files are hashed for it. A commit may still be found."""
        source = self.registered.source_hash
        return {
            "name": self.component.name,
            "version": self.component.version,
            "params": self.params.public() | self._publishable,
            **({"source": source} if source else {}),
        }

    @property
    def published(self) -> Published | None:
        """The repository on the hub that the component itself reads; None if there is none."""
        find = getattr(self.component, "hub", None)
        found: Published | None = find(self.params) if find else None
        return found

    @property
    def commit(self) -> str | None:
        """The commit of that repository; None if there is none, or if it cannot be resolved."""
        read = self.published
        return hub.commit(read.id, read.revision, "dataset" if self.kind == "task" else "model") if read else None

    def private(self) -> dict[str, Any]:
        """The data from which a worker reconstructs it."""
        return self._private

    @functools.cached_property
    def _private(self) -> dict[str, Any]:
        return {"kind": self.kind, "name": self.component.name, "params": self.params.model_dump(mode="json")}

    @property
    def hides(self) -> bool:
        """Whether it, or its scorer, has parameters with values that keys and records must not contain."""
        fields_ = type(self.params).model_fields.items()
        changed = [_flags(i) for n, i in fields_ if getattr(self.params, n) != i.get_default(call_default_factory=True)]
        own = any(f.get("local") or f.get("private") or not f.get("keyed", True) for f in changed)
        return own or (self.scorer is not None and self.scorer.hides)

    @property
    def _publishable(self) -> dict[str, str]:
        """Replacements for the scorer's selector if it contains confidential values."""
        if self.scorer is None or not self.scorer.hides:
            return {}
        return {n: self.scorer.label for n in type(self.params).model_fields if getattr(self.params, n) == self.named}


def choose(registry: Registry, kind: str, text: str) -> tuple[Chosen, ...]:
    """The components a selector text names; `all` names every one of the kind, but no method that is a control.

    Raises:
        UsageError: for an unknown name or parameter.
        NothingSelectedError: if the selection is empty.
    """
    chosen: dict[str, Chosen] = {}
    for selector in parse(text):
        names = _all(registry, kind) if selector.name == "all" else [selector.name]
        for name in names:
            registered = registry.find(kind, name)
            params = registry.configure(registered.component, dict(selector.values))
            asks: Any = registered.component
            named = asks.scorer(params) if kind == "pair builder" else getattr(params, "scorer", "")
            scorer = choose(registry, "metric", named)[0] if named else None
            one = Chosen(kind, registered, params, scorer, named)
            chosen[one.label] = one
    if not chosen:
        raise NothingSelectedError(f"{text!r} selects no {kind}", "Give at least one name, or all.")
    return tuple(chosen.values())


def _all(registry: Registry, kind: str) -> list[str]:
    found = registry.components(kind)
    return [name for name in found if not getattr(found[name][0].component, "control", False)]


def _flags(info: Any) -> Mapping[str, Any]:
    """The extra attributes of a field, set by `param`."""
    return info.json_schema_extra if isinstance(info.json_schema_extra, dict) else {}


def _shown(value: Any, flags: Mapping[str, Any]) -> str:
    if flags.get("private"):
        return text_hash(str(value)).removeprefix("sha256:")[:8]
    if flags.get("local"):
        return f"{value.name}-{content_hash(value).removeprefix('sha256:')[:8]}"
    text = f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)
    quote = '"' if "'" in text else "'"
    return f"{quote}{text}{quote}" if any(c in text for c in ",|[]") else text
