"""The protocol: the settings that all cells of a board share, each declared once.

The options of `run` and `plan`, the checks of board.toml and of values that Python code gives, the conditions on a
board's page and the table in docs/records.md are all generated from these declarations. The effect of a setting is
implemented elsewhere: `plan/stages.py` adds it to the keys of the stages that it changes, and those stages read it.
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

from plad_bench.contract import evaluation_points, training_budget
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
    """Declare a setting with its default and range. The docstring below the field is its help text.

    Args:
        default: value if the task, the board and the user give none.
        unit: unit of the value, for the documentation.
        page: phrase for the board's page, with {} for the value; empty if the page shows the setting in another way.
        metavar: placeholder for the value in the help text.
        automatic: the command line also accepts `auto`, and plad-bench chooses the value.
        unsaid: keys, records and boards omit the setting if it has its default value, because older ones do not have
            it.
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
    """The controlled conditions that all cells of a board share. A task sets defaults; a board fixes the values.

    Raises:
        UsageError: if a setting is unknown, has the wrong type, is out of range or is not finite.
    """

    steps: int = setting(300, unit="optimiser steps", ge=1)
    """Optimiser steps per method."""
    budget: Annotated[str, Field(pattern=training_budget.PATTERN)] = setting(
        "", metavar="[steps|tokens|device-seconds|money|teacher-tokens]=N", unsaid=True
    )
    """Budget of every method's training, at which it stops: steps=300, tokens=5M, device-seconds=600, money=5 or
    teacher-tokens=2M. It replaces --steps, which remains the limit for teacher-tokens alone."""
    lr: float = setting(1e-3, gt=0)
    """Peak learning rate, shared by all methods."""
    batch: int = setting(32, unit="prompts", page="global batch of {} prompts", ge=1)
    """Global batch: prompts per optimiser step, independent of the micro-batch and the number of devices."""
    sft_steps: int = setting(600, unit="optimiser steps", page="SFT initialisation of {} steps", ge=0)
    """Optimiser steps of the SFT initialisation, shared by all methods of a seed."""
    sft_lr: float = setting(3e-3, gt=0)
    """Peak learning rate of the SFT initialisation."""
    max_new_tokens: int = setting(96, unit="tokens", page="greedy decoding of at most {} tokens", ge=1)
    """Maximum length of a generated response."""
    precision: Literal["float32", "bf16"] = setting("float32", page="{}")
    """Floating-point precision of models. A new board defaults to bf16 on GPUs and to float32 on CPUs."""
    lora: int = setting(0, page="LoRA rank {}", unsaid=True, ge=0)
    """LoRA rank for training students (0: train all weights)."""
    optimizer: Literal["adamw", "adamw8bit"] = setting("adamw", page="optimiser {}", unsaid=True)
    """Optimiser of students and pretrained teachers. adamw8bit keeps AdamW's moments in 8 bits, which saves 6 bytes per
    parameter, and needs bitsandbytes and a GPU."""
    teacher_logprobs: Annotated[str, Field(pattern=r"\A(live|dense|top-[1-9]\d*)\z")] = setting(
        "live", page="{} teacher log-probabilities", metavar="live|dense|top-K", unsaid=True
    )
    """Teacher log-probabilities of fixed text: computed at every step (live), or precomputed before training, over the
    full vocabulary (dense) or for the K most likely tokens (top-K)."""
    split: Literal["test", "validation"] = setting("test", page="{} split")
    """Split to evaluate on. Use validation for tuning."""
    teach_temperature: float = setting(0.0, page="teacher responses at temperature {}", ge=0)
    """Sampling temperature of the teacher's training responses (0: greedy decoding)."""
    sample_temperature: float = setting(0.7, page="off-policy samples at temperature {}", ge=0)
    """Sampling temperature of the off-policy samples, which the SFT-initialised student generates (0: greedy
    decoding)."""
    top_k: int = setting(40, unit="tokens", page="top-k {}", ge=1)
    """Top-k for sampled teacher responses and off-policy samples."""
    samples: int = setting(1, unit="responses", page="{} responses per prompt", unsaid=True, ge=1)
    """Responses sampled per training prompt, from the teacher and for the off-policy samples."""
    evaluate_at: Annotated[str, Field(pattern=evaluation_points.PATTERN)] = setting(
        "", page="also evaluated at {} % of the training", metavar="PERCENT,...", unsaid=True
    )
    """Shares of the training after which methods are evaluated as well, such as 25,50,75,100%. The end always is."""
    evaluate_samples: int = setting(
        0, unit="responses", page="{} sampled responses per evaluated prompt beside the greedy one", unsaid=True, ge=0
    )
    """Responses sampled per evaluated prompt, beside the greedy one. The board then also shows their mean score
    (avg@K), how often one of k is correct (pass@k), and how diverse they are (0: greedy decoding only)."""
    evaluate_temperature: float = setting(0.7, unsaid=True, gt=0)
    """Sampling temperature of `evaluate_samples`. All tokens can be sampled: there is no top-k."""
    tune: int = setting(0, unit="trials", page="every method tuned with {} trials", unsaid=True, ge=0)
    """Trials per method: tune its learning rate and its own parameters on the validation split, and evaluate only the
    best settings on the test split (0: use the default settings)."""
    limit: int = setting(0, unit="prompts", ge=0)
    """Maximum number of prompts per split; records are then marked as trials (0: use all prompts)."""
    backend: Literal["transformers", "vllm"] = setting("transformers", page="backend {}", automatic=True, unsaid=True)
    """Generation backend outside training. auto selects vllm if it is available."""
    rollouts: Literal["transformers", "vllm"] = setting(
        "transformers", page="on-policy text sampled by {}", unsaid=True
    )
    """Backend that samples on-policy text during training. Methods whose sampling needs the teacher always use
    transformers."""

    @classmethod
    def unsaid(cls) -> dict[str, Any]:
        """The settings that keys, records and boards omit, with the default values at which they do."""
        return {name: s["default"] for name, s in settings().items() if s["unsaid"]}

    @model_validator(mode="wrap")
    @classmethod
    def _in_our_words(cls, given: Any, validate: Any) -> Any:
        if isinstance(given, ArgsKwargs) and given.kwargs:
            if old := sorted(SETTINGS.keys() & given.kwargs.keys()):
                warnings.warn(f"{old[0]} is now {SETTINGS[old[0]]}", FutureWarning, stacklevel=2)
            given = ArgsKwargs(given.args, usual(given.kwargs))
        try:
            return validate(given)
        except ValidationError as error:
            raise _usage_error(error) from None


@functools.cache
def settings() -> dict[str, dict[str, Any]]:
    """Every setting by name: its JSON schema (`default`, `type`, `enum`, `minimum`, ...), with what `setting` adds."""
    properties: dict[str, dict[str, Any]] = TypeAdapter(Protocol).json_schema()["properties"]
    return properties


def usual(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings by their current names, and budget and evaluation points in their shortest form.

    Raises:
        UsageError: if an amount or a share is out of range.
    """
    return evaluation_points.normalised(training_budget.normalised(present(values)))


def checked(values: Mapping[str, Any]) -> dict[str, Any]:
    """Validate some settings and return them in their usual form, such as a float for an integer. Errors as `Protocol`.

    A budget of steps becomes the setting `steps`.
    """
    values = usual(values)
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
