"""Generating responses with vLLM's offline engine, in a process of its own that ends with this one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import AutoConfig, GenerationConfig

from plad_bench.contract.errors import StageError
from plad_bench.contract.records import Response
from plad_bench.learn import models
from plad_bench.learn.generation import Decoding, check_room, end_tokens, response_of
from plad_bench.learn.sequences import Encoder

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # it has a process of its own already
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # stages in other slots would be bound to the same cores
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Unless the user's environment says otherwise."""


def generate(
    path: Path, device: str, precision: str, prompts: Sequence[str], rounds: Sequence[Decoding]
) -> tuple[list[list[Response]], int]:
    """For each round one response to each prompt, in their order, and the most bytes in use.

    Raises:
        StageError: if a prompt leaves no room for the response, or vLLM fails.
    """
    source, name = models.located(path)
    config = AutoConfig.from_pretrained(source, trust_remote_code=False)
    encoder = Encoder(models.load_tokenizer(source, name), models.context_of(config))
    encoded = [encoder.prompt(p) for p in prompts]
    check_room(encoder, encoded, max(decoding.max_new_tokens for decoding in rounds))
    ends = end_tokens(_published(source), encoder.tokenizer)
    made = _run(
        {
            "model": str(source.resolve()),
            "device": device,
            "dtype": "bfloat16" if precision == "bf16" else "float32",
            "context": encoder.context,
            "prompts": encoded,
            "ends": sorted(ends),
            "rounds": [asdict(decoding) for decoding in rounds],
        }
    )
    return [[response_of(encoder, ids, ends) for ids in answers] for answers in made["ids"]], made["peak_memory_bytes"]


def _published(source: Path) -> GenerationConfig | None:
    there = (source / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(source) if there else None


def _run(job: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        asked, made = Path(directory) / "job.json", Path(directory) / "made.json"
        asked.write_text(json.dumps(job))
        # The child watches its standard input, whose other end closes when this process ends, however it does.
        with subprocess.Popen(
            [sys.executable, "-m", "plad_bench.learn.vllm_process", str(asked), str(made)],
            stdin=subprocess.PIPE,
            stdout=2,  # it talks there, and this process's standard output may be data
            env={**ENVIRONMENT, **os.environ},
        ) as child:
            code = child.wait()
        found: dict[str, Any] = json.loads(made.read_text()) if made.is_file() else {}
    if "ids" not in found:
        raise StageError(
            f"vLLM failed: {found.get('error', f'its process ended with code {code}')}",
            "The log says more. --backend transformers does without it.",
        )
    return found
