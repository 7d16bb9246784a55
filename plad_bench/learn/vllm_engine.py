"""vLLM's offline engine in a child process, which ends with this one: it generates responses, and scores text."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from transformers import AutoConfig, GenerationConfig

from plad_bench.contract.errors import StageError
from plad_bench.contract.examples import Response
from plad_bench.learn import models
from plad_bench.learn.generation import Decoding, check_room, response_of
from plad_bench.learn.sequences import Encoder, Tokens
from plad_bench.learn.teacher_cache import Put
from plad_bench.learn.vllm_process import FILES

ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # it has its own process already
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # otherwise stages in other slots are bound to the same cores
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1",  # a text that fills the context is read with one extra, unused token
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Defaults that the user's environment overrides."""
_PART = 65536
"""Tokens whose log-probabilities are copied at a time."""


def generate(
    path: Path,
    device: str,
    precision: str,
    prompts: Sequence[str],
    rounds: Sequence[Decoding],
    *,
    logprobs: bool = False,
    counts: dict[str, float] | None = None,
    gpus: Sequence[str] = (),
) -> tuple[list[list[Response]], int]:
    """For each round one response to each prompt, in their order, and the peak memory in bytes.

    Responses have log-probabilities if requested. `gpus` divide the model, if there are several. Raises:
        StageError: if a prompt leaves no room for the response, or vLLM fails.
    """
    source, encoder = described(path, counts)
    encoded = [encoder.prompt(p) for p in prompts]
    most = max(decoding.max_new_tokens for decoding in rounds)
    check_room(encoder, encoded, most)
    ends = models.end_tokens(_published(source), encoder.tokenizer)
    with tempfile.TemporaryDirectory() as directory:
        made = _run(
            Path(directory),
            {
                **settings(source, device, precision),
                "context": max(map(len, encoded), default=0) + most,
                "prompts": encoded,
                "ends": sorted(ends),
                "rounds": [asdict(decoding) for decoding in rounds],
                "logprobs": logprobs,
            },
            gpus,
        )
    responses = [
        [_response(encoder, ids, said, ends) for ids, said in zip(answers, saids, strict=True)]
        for answers, saids in zip(made["ids"], made["logprobs"], strict=True)
    ]
    return responses, made["peak_memory_bytes"]


def _response(encoder: Encoder, ids: Sequence[int], logprobs: Sequence[float] | None, ends: set[int]) -> Response:
    response = response_of(encoder, ids, ends)
    if logprobs is None or response.ids is None:
        return response
    return replace(response, logprobs=tuple(logprobs[: len(response.ids) + response.finished]))


@dataclass
class Served:
    """A teacher that reads text in the engine: a TeacherReader of learn/teacher_cache.py."""

    path: Path
    device: str
    precision: str
    directory: Path
    """Directory for the engine's output, emptied after use."""
    counts: dict[str, float]
    gpus: Sequence[str] = ()
    """They divide the teacher, if there are several."""
    peak_memory_bytes: int = 0
    """Set when it has read."""

    def __post_init__(self) -> None:
        self.source, self.encoder = described(self.path, self.counts)

    @property
    def head(self) -> None:
        """None: it gives log-probabilities."""
        return

    @property
    def vocabulary(self) -> int:
        """Its logits per token."""
        return int(AutoConfig.from_pretrained(self.source, trust_remote_code=False).get_text_config().vocab_size)

    def read(self, sequences: Sequence[Tokens], k: int, put: Put, progress: Callable[[int, int], None]) -> None:
        """As in TeacherReader, with k >= 1. The tail has the remaining probability.

        Raises:
            StageError: if vLLM fails.
        """
        with tempfile.TemporaryDirectory(dir=self.directory) as directory:
            made = _run(
                Path(directory),
                {
                    **settings(self.source, self.device, self.precision),
                    "context": max(map(len, sequences)) + 1,  # the engine always generates a token
                    "sequences": [(sequence.prompt, sequence.response) for sequence in sequences],
                    "k": k,
                    "whole": k == self.vocabulary,
                },
                self.gpus,
            )
            self.peak_memory_bytes = made["peak_memory_bytes"]
            logprobs, ids = (np.load(Path(directory) / name, mmap_mode="r") for name in FILES)
            for start in range(0, len(ids), _PART):
                part = slice(start, start + _PART)
                put(np.arange(len(ids))[part], logprobs[part], ids[part])
        progress(len(sequences), len(sequences))


def described(path: Path, counts: dict[str, float] | None = None) -> tuple[Path, Encoder]:
    """The directory with a model's files, and the model's encoder."""
    source, name = models.located(path)
    return source, models.encoder_of_files(source, name, models.format_of(path), counts)


def settings(source: Path, device: str, precision: str) -> dict[str, Any]:
    """What `vllm_process.start_engine` needs to know of a model directory, apart from its context."""
    dtype = "bfloat16" if precision == "bf16" else "float32"
    return {"model": str(source.resolve()), "device": device, "dtype": dtype}


def _published(source: Path) -> GenerationConfig | None:
    there = (source / "generation_config.json").is_file()
    return GenerationConfig.from_pretrained(source) if there else None


def _run(directory: Path, job: dict[str, Any], gpus: Sequence[str] = ()) -> dict[str, Any]:
    """The output of the engine's process, which sees some GPUs, for a job whose files are in a directory."""
    asked, made = directory / "job.json", directory / "made.json"
    asked.write_text(json.dumps({**job, "gpus": max(1, len(gpus))}))
    seen = {"CUDA_VISIBLE_DEVICES": ",".join(gpus)} if len(gpus) > 1 and all(gpus) else {}
    # The child reads its standard input, whose other end closes when this process ends in any way.
    with subprocess.Popen(
        [sys.executable, "-P", "-m", "plad_bench.learn.vllm_process", str(asked), str(made)],
        stdin=subprocess.PIPE,
        stdout=2,  # it logs there, and this process's standard output may carry data
        env={**ENVIRONMENT, **os.environ, **seen},
    ) as child:
        code = child.wait()
    found: dict[str, Any] = json.loads(made.read_text()) if made.is_file() else {}
    if "peak_memory_bytes" not in found:
        raise StageError(
            f"vLLM failed: {found.get('error', f'its process ended with code {code}')}",
            "See the log, or use --backend transformers.",
        )
    return found
