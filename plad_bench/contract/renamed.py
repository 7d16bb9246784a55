"""Deprecated and removed names. Renamed ones work for one more version, with a warning; old records are migrated."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T", bound=type)

SETTINGS = {"warmup_steps": "sft_steps", "warmup_lr": "sft_lr", "signals": "teacher_logprobs"}
"""Protocol settings, and with them options and environment variables."""
REMOVED = {"compile": "token losses are no longer compiled, which was slower as often as faster"}
"""Settings of the protocol that were removed -> why."""
METRICS = {"perplexity": "nll", "pair-accuracy": "preference-accuracy"}
STAGES = {"warmup": "sft-init"}
"""Stages, and the baselines of the same name."""
COSTS = {"warmup_device_seconds": "sft_init_device_seconds"}
"""Keys of `cost` in records."""
COUNTS = {"unfinished": "truncated", "cut_sequences": "truncated_sequences"}
"""Last parts of the keys of `counts` in records."""
API = {"Asking": "RequestContext", "Question": "Request"}
"""Names that plugins import from plad_bench."""


def present(values: Mapping[str, Any]) -> dict[str, Any]:
    """Translate deprecated names of settings to current ones."""
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
