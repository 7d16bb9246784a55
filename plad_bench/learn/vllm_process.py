"""The process of the vLLM engine: token ids of prompts in, token ids of responses out, through two JSON files."""

from __future__ import annotations

import json
import os
import resource
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

from plad_bench.learn.seeds import derive


def main(asked: str, made: str) -> int:
    """Do the job of the file `asked`; write {ids, peak_memory_bytes}, or {error}, to `made`."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    job = json.loads(Path(asked).read_text())
    try:
        found = _generate(job)
    except Exception as error:  # noqa: BLE001  whatever an engine raises, its caller turns into a message
        traceback.print_exc()
        found = {"error": f"{type(error).__name__}: {error}".splitlines()[0][:300]}
    Path(made).write_text(json.dumps(found))
    return 1 if "error" in found else 0


def _generate(job: dict[str, Any]) -> dict[str, Any]:
    from vllm import LLM, SamplingParams

    cpu = job["device"] == "cpu"
    engine = LLM(
        model=job["model"],
        dtype=job["dtype"],
        max_model_len=job["context"],
        skip_tokenizer_init=True,
        load_format="safetensors",
        trust_remote_code=False,
        enforce_eager=cpu,  # compiling takes longer than a CPU's generation of any task here
        seed=0,
    )
    prompts, sampling = [], []
    for number, decoding in enumerate(job["rounds"]):
        for i, ids in enumerate(job["prompts"]):
            prompts.append({"prompt_token_ids": ids})
            sampling.append(
                SamplingParams(
                    temperature=decoding["temperature"],
                    top_k=decoding["top_k"] or -1,
                    max_tokens=decoding["max_new_tokens"],
                    seed=derive(decoding["seed"], "vllm", number, i),  # no text depends on what runs beside it
                    stop_token_ids=job["ends"],
                    detokenize=False,
                )
            )
    answers = [list(output.outputs[0].token_ids) for output in engine.generate(prompts, sampling)]
    count = len(job["prompts"])
    return {
        "ids": [answers[start : start + count] for start in range(0, len(answers), count)],
        "peak_memory_bytes": _peak(cpu=cpu),
    }


def _peak(*, cpu: bool) -> int:
    if not cpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def end_with_parent() -> None:
    """End this process when its standard input is closed, as the end of whoever holds the other end closes it."""
    sys.stdin.buffer.read()
    os._exit(1)


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # an engine that hangs while it is torn down would keep its caller waiting
