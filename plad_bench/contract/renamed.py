"""Names that changed or went. Renamed ones work for one more version, with a warning; old records remain readable."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

SETTINGS = {"warmup_steps": "sft_steps", "warmup_lr": "sft_lr", "signals": "teacher_logprobs"}
"""Settings of the protocol; options and variables follow from them."""
REMOVED = {"compile": "token losses are no longer compiled, which was slower as often as faster"}
"""Settings of the protocol that were removed -> why."""
METRICS = {"perplexity": "nll", "pair-accuracy": "preference-accuracy"}
STAGES = {"warmup": "sft-init"}
"""Stages, and the baselines that they make."""
COSTS = {"warmup_device_seconds": "sft_init_device_seconds"}
"""Keys of a record's cost."""
COUNTS = {"unfinished": "truncated", "cut_sequences": "truncated_sequences"}
"""The last part of keys of a record's counts."""
API = {"Asking": "RequestContext", "Question": "Request"}
"""Names that plugins import from plad_bench."""


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same settings by the names that they have now."""
    return {SETTINGS.get(name, name): value for name, value in values.items()}


def warn(former: str, now: str, *, stacklevel: int) -> None:
    """Tell the author of a plugin about a name of the API; `stacklevel` 1 is the caller."""
    text = f"{former} is now {now}; the older name stops working in the next version of the plugin API"
    warnings.warn(text, DeprecationWarning, stacklevel=stacklevel + 1)


def former_names(**names: str) -> Callable[[T], T]:
    """A class decorator: attributes and keyword arguments by the names that they had, as `former="present"`."""

    def decorate(cls: T) -> T:
        owner: Any = cls
        construct = owner.__init__

        @functools.wraps(construct)
        def init(self: Any, *args: Any, **given: Any) -> None:
            for former in given.keys() & names.keys():
                warn(f"{cls.__name__}({former}=)", f"{cls.__name__}({names[former]}=)", stacklevel=2)
                given[names[former]] = given.pop(former)
            construct(self, *args, **given)

        owner.__init__ = init
        for former, present in names.items():
            setattr(cls, former, _attribute(cls.__name__, former, present))
        return cls

    return decorate


def _attribute(owner: str, former: str, present: str) -> property:
    def get(self: Any) -> Any:
        warn(f"{owner}.{former}", f"{owner}.{present}", stacklevel=2)
        return getattr(self, present)

    return property(get)
