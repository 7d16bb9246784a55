"""The protocol: the settings that every cell of a board shares, each declared once.

The options of `run` and `plan`, the checks of board.toml and of values that Python code gives, the conditions on a
board's page and the table in docs/records.md are all made from these declarations. What a setting does is decided
elsewhere: `plan/stages.py` says which stages it enters the key of, and those stages read it.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError, model_validator
from pydantic.dataclasses import dataclass
from pydantic_core import ArgsKwargs

from plad_bench.contract.errors import UsageError
from plad_bench.contract.renamed import REMOVED, SETTINGS, present


def setting(
    default: Any,
    *,
    unit: str = "",
    page: str = "",
    metavar: str = "",
    automatic: bool = False,
    unsaid: bool = False,
    **bounds: Any,
) -> Any:
    """A setting with its default and its range; the text below a field is its help.

    Args:
        default: the value where neither the task, the board nor the user gives one.
        unit: of the value, for the documentation.
        page: how a board's page says it, with {} for the value; empty where the page shows it in another way.
        metavar: what the help of the option shows in place of a value.
        automatic: the command line also takes `auto`, and plad-bench chooses.
        unsaid: keys, records and boards leave the setting out where it has its default, since older ones lack it.
        bounds: pydantic's `ge`, `gt`, `le`, `lt`, `pattern`, ...
    """
    extra: dict[str, Any] = {"unit": unit, "page": page, "metavar": metavar, "automatic": automatic, "unsaid": unsaid}
    return Field(default, json_schema_extra=extra, **bounds)


@dataclass(
    frozen=True,
    kw_only=True,
    config=ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True),
)
class Protocol:
    """The controlled conditions that every cell of a board shares. A task gives defaults; a board fixes them.

    Raises:
        UsageError: for an unknown setting, a value of another type or out of range, a number that is not finite.
    """

    steps: int = setting(300, unit="optimiser steps", page="{} steps", ge=1)
    """Optimiser steps of every method."""
    lr: float = setting(1e-3, gt=0)
    """Peak learning rate that all methods share."""
    batch: int = setting(32, unit="prompts", page="batches of {} prompts", ge=1)
    """Prompts per optimiser step, whatever the micro-batch or the number of devices."""
    sft_steps: int = setting(600, unit="optimiser steps", page="SFT initialisation of {} steps", ge=0)
    """Steps of the SFT initialisation that all methods of a seed share."""
    sft_lr: float = setting(3e-3, gt=0)
    """Peak learning rate of the SFT initialisation."""
    max_new_tokens: int = setting(96, unit="tokens", page="greedy decoding of at most {} tokens", ge=1)
    """Length limit of every generated response."""
    precision: Literal["float32", "bf16"] = setting("float32", page="{}")
    """Arithmetic of models. The command line defaults to the board's, else to bf16 on GPUs and float32 on CPUs."""
    lora: int = setting(0, page="adapters of rank {}", unsaid=True, ge=0)
    """Train students through adapters of this rank; 0 trains all weights."""
    teacher_logprobs: Annotated[str, Field(pattern=r"\A(live|dense|top-[1-9]\d*)\z")] = setting(
        "live", page="{} teacher log-probabilities", metavar="live|dense|top-K", unsaid=True
    )
    """Teacher log-probabilities of fixed text: computed at every step (live), or once before training, over the whole
    vocabulary (dense) or of the K likeliest tokens and the tail (top-K)."""
    split: Literal["test", "validation"] = setting("test", page="{} split")
    """Split to evaluate on; validation is for choosing defaults."""
    teach_temperature: float = setting(0.0, page="teacher text at temperature {}", ge=0)
    """Sampling temperature of the teacher's training responses; 0 decodes greedily."""
    sample_temperature: float = setting(0.7, page="student samples at temperature {}", ge=0)
    """Sampling temperature of the initialised student's responses; 0 decodes greedily."""
    top_k: int = setting(40, unit="tokens", page="top-k {}", ge=1)
    """Top-k of teacher and initialised student, where they sample."""
    samples: int = setting(1, unit="responses", page="{} samples of each prompt", unsaid=True, ge=1)
    """Responses sampled per training prompt, from the teacher and from the initialised student."""
    limit: int = setting(0, unit="prompts", ge=0)
    """Use at most this many prompts of each split, and record the cells as trials; 0 uses all."""
    backend: Literal["transformers", "vllm"] = setting("transformers", page="backend {}", automatic=True, unsaid=True)
    """Library that generates text outside of training. auto chooses vllm where it can run."""

    @classmethod
    def unsaid(cls) -> dict[str, Any]:
        """What keys, records and boards leave out where it is so, since older ones can't say it."""
        return {name: s["default"] for name, s in settings().items() if s["unsaid"]}

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, given: Any, validate: Any) -> Any:
        if isinstance(given, ArgsKwargs) and given.kwargs:
            if old := sorted(SETTINGS.keys() & given.kwargs.keys()):
                warnings.warn(f"{old[0]} is now {SETTINGS[old[0]]}", FutureWarning, stacklevel=2)
            given = ArgsKwargs(given.args, present(given.kwargs))
        try:
            return validate(given)
        except ValidationError as error:
            raise _usage_error(error) from None


@functools.cache
def settings() -> dict[str, dict[str, Any]]:
    """Every setting by name: its JSON schema (`default`, `type`, `enum`, `minimum`, ...), with what `setting` adds."""
    properties: dict[str, dict[str, Any]] = TypeAdapter(Protocol).json_schema()["properties"]
    return properties


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Some settings, each checked; an integer for a real number becomes one. Errors as `Protocol`."""
    values = present(values)
    whole = asdict(Protocol(**values))
    return {name: whole[name] for name in values}


def _usage_error(error: ValidationError) -> UsageError:
    from plad_bench.contract.suggestions import allowed_values, near_matches, suggestion

    first = error.errors(include_url=False)[0]
    name, known = str(first["loc"][0]), settings()
    if name in REMOVED:
        return UsageError(f"the protocol setting {name} was removed", f"Delete it: {REMOVED[name]}.")
    if name not in known:
        return UsageError(f"unknown protocol setting {name!r}", suggestion(near_matches(name, known), known))
    why = "" if first["type"] == "string_pattern_mismatch" else f": {first['msg']}"
    return UsageError(f"{name} is {first['input']!r}{why}", f"Allowed: {allowed_values(known[name], {})}.")
