"""The process of the vLLM engine: token ids in, token ids or log-probabilities out, through files of one directory."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plad_bench.learn.seeds import derive

FILES = ("logprobs.npy", "ids.npy")
"""Output of scoring: log-probabilities of events [N, k + 2] and the k most likely tokens [N, k], as in
learn/teacher_cache.py, for the response tokens of all sequences in their order."""
SEQUENCES = 256
"""Sequences scored at a time: each of their tokens needs k + 1 objects."""
SCORED_AT_ONCE = 2048
"""Tokens whose full logits are in memory at a time, which the engine does not plan for."""


def main(asked: str, made: str) -> int:
    """Do the job in the file `asked`; write the result, with {peak_memory_bytes}, or {error}, to `made`."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    job = json.loads(Path(asked).read_text())
    try:
        found = _generate(job) if "rounds" in job else _score(job, Path(made).parent)
    except Exception as error:  # noqa: BLE001  whatever an engine raises, its caller turns into a message
        found = failure(error)
    else:
        found["peak_memory_bytes"] = peak_memory(job["device"])
    Path(made).write_text(json.dumps(found))
    return 1 if "error" in found else 0


def failure(error: Exception) -> dict[str, str]:
    """{error}: the first line of an exception, whose traceback goes to the log."""
    traceback.print_exception(error)
    return {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}


def _generate(job: dict[str, Any]) -> dict[str, Any]:
    from vllm import SamplingParams

    engine = start_engine(job)
    prompts, sampling = [], []
    for number, decoding in enumerate(job["rounds"]):
        for i, ids in enumerate(job["prompts"]):
            prompts.append({"prompt_token_ids": ids})
            sampling.append(
                SamplingParams(
                    temperature=decoding["temperature"],
                    top_k=decoding["top_k"] or -1,
                    max_tokens=decoding["max_new_tokens"],
                    seed=derive(decoding["seed"], "vllm", number, i),  # no text depends on its batch
                    stop_token_ids=job["ends"],
                    detokenize=False,
                    logprobs=0 if job["logprobs"] else None,  # of the chosen token only
                )
            )
    answers = [output.outputs[0] for output in engine.generate(prompts, sampling)]
    rounds = [answers[start : start + len(job["prompts"])] for start in range(0, len(answers), len(job["prompts"]))]
    return {
        "ids": [[list(answer.token_ids) for answer in answers] for answers in rounds],
        "logprobs": [[logprobs_of(answer) for answer in answers] for answers in rounds],
    }


def logprobs_of(answer: Any) -> list[float] | None:
    """The engine's log-probability of each token of a response, if requested."""
    if answer.logprobs is None:
        return None
    return [float(at[token].logprob) for at, token in zip(answer.logprobs, answer.token_ids, strict=True)]


def _score(job: dict[str, Any], directory: Path) -> dict[str, Any]:
    k, sequences = job["k"], job["sequences"]
    most = max(SCORED_AT_ONCE, job["context"])
    engine = start_engine(job, max_logprobs=k, max_num_batched_tokens=most, enable_prefix_caching=False)
    tokens = sum(len(response) for _, response in sequences)
    logprobs = np.lib.format.open_memmap(directory / FILES[0], mode="w+", dtype=np.float32, shape=(tokens, k + 2))
    ids = np.lib.format.open_memmap(directory / FILES[1], mode="w+", dtype=np.int32, shape=(tokens, k))
    place = 0
    for labels, found in _read(engine, sequences, k):
        part = slice(place, place + len(labels))
        ids[part], logprobs[part] = events(found, labels, k, whole=job["whole"])
        place += len(labels)
    ids.flush()
    logprobs.flush()
    return {}


def _read(engine: Any, sequences: list[Any], k: int) -> Iterator[tuple[list[int], list[Mapping[int, Any]]]]:
    """The tokens of each response with vLLM's log-probabilities."""
    from vllm import SamplingParams

    scoring = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=k, detokenize=False)
    for start in range(0, len(sequences), SEQUENCES):
        some = sequences[start : start + SEQUENCES]
        asked = [{"prompt_token_ids": prompt + response} for prompt, response in some]
        for (prompt, response), output in zip(some, engine.generate(asked, scoring), strict=True):
            yield response, output.prompt_logprobs[len(prompt) :]


def events(found: list[Mapping[int, Any]], labels: list[int], k: int, *, whole: bool) -> tuple[np.ndarray, np.ndarray]:
    """The k most likely tokens [n, k], and the log-probabilities of them, the label and the tail, [n, k + 2].

    Args:
        found: for each token the most likely ones and the label, each with `logprob` and `rank`.
        labels: the actual tokens.
        k: number of tokens to keep.
        whole: whether k is the vocabulary size, so that there is no tail.
    """
    ids = np.empty((len(labels), k), np.int32)
    logprobs = np.full((len(labels), k + 2), -np.inf, np.float32)
    for row, (at, label) in enumerate(zip(found, labels, strict=True)):
        likeliest = sorted(at, key=lambda token: at[token].rank)[:k]
        ids[row] = likeliest
        logprobs[row, :k] = [at[token].logprob for token in likeliest]
        if label not in likeliest:
            logprobs[row, k] = at[label].logprob
    # Parts are rounded, so a tail below their rounding error is indistinguishable from that error.
    rest = 1 - np.exp(logprobs[:, : k + 1].astype(np.float64)).sum(1)
    smallest = np.finfo(np.float32)
    logprobs[:, k + 1] = smallest.min if whole else np.log(np.maximum(rest, smallest.eps))
    return ids, logprobs


def start_engine(job: dict[str, Any], **more: Any) -> Any:
    """The engine of {model, device, dtype, context, gpus}, with further arguments of vLLM's `LLM`."""
    from vllm import LLM

    return LLM(
        model=job["model"],
        dtype=job["dtype"],
        max_model_len=job["context"],
        skip_tokenizer_init=True,
        load_format="safetensors",
        trust_remote_code=False,
        enforce_eager=job["device"] == "cpu",  # on CPUs compiling takes longer than generating
        tensor_parallel_size=job.get("gpus", 1),
        seed=0,
        **more,
    )


def peak_memory(device: str) -> int:
    """Peak memory of this process in bytes, on its device."""
    if device != "cpu":
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def end_with_parent() -> None:
    """Exit when standard input closes, which happens when the parent process ends."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an engine that hangs on shutdown would block its parent
