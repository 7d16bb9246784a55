"""The process of a vLLM engine that stays beside a training: JSON lines in and out through standard input and output.

A line is a request, {reload, prompts, seeds, ends, unused, temperature, max_new_tokens, logprobs}. Its reply is {ids,
logprobs, peak_memory_bytes, processor_seconds}, or {error}, which is the last one. The process ends when its standard
input closes, and so when its parent ends in any way.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from queue import SimpleQueue
from typing import Any

from plad_bench.learn import vllm_process


def main(settings: str) -> int:
    """Start the engine and answer requests.

    Args:
        settings: as JSON, those of `vllm_process.start_engine`, with further arguments of vLLM's `LLM` as `options`.
    """
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # libraries print to standard output
    lines: SimpleQueue[str] = SimpleQueue()
    threading.Thread(target=_read, args=(lines,), daemon=True).start()
    job, engine = json.loads(settings), None
    while True:
        asked = json.loads(lines.get())
        try:
            engine = engine or vllm_process.start_engine(job, **job["options"])
            reply = _sample(engine, asked)
        except Exception as error:  # noqa: BLE001  whatever an engine raises, its caller turns into a message
            reply = vllm_process.failure(error)
        else:
            reply["peak_memory_bytes"] = vllm_process.peak_memory(job["device"])
            reply["processor_seconds"] = time.process_time()
        replies.write(json.dumps(reply) + "\n")
        replies.flush()
        if "error" in reply:
            return 1


def _read(lines: SimpleQueue[str]) -> None:
    """Collect lines while the engine works; exit when standard input closes, even in the middle of that."""
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)


def _prepare_heads(model: Any) -> None:
    """Prepare output heads for the device again: vLLM leaves out those that share the weights of the embeddings."""
    for layer in model.modules():
        if type(layer).__name__ == "ParallelLMHead":
            layer.quant_method.process_weights_after_loading(layer)


def _sample(engine: Any, asked: dict[str, Any]) -> dict[str, Any]:
    """A response to each prompt of a request."""
    from vllm import SamplingParams

    if asked["reload"]:  # what is now in the directory of its model
        engine.collective_rpc("reload_weights")
        engine.apply_model(_prepare_heads)
    never = dict.fromkeys(asked["unused"], -100.0) or None  # the lowest bias that vLLM accepts
    sampling = [
        SamplingParams(
            temperature=asked["temperature"],
            max_tokens=asked["max_new_tokens"],
            seed=seed,  # no text depends on its batch
            stop_token_ids=asked["ends"],
            logit_bias=never,
            detokenize=False,
            logprobs=0 if asked["logprobs"] else None,  # of the chosen token only
        )
        for seed in asked["seeds"]
    ]
    prompts = [{"prompt_token_ids": ids} for ids in asked["prompts"]]
    answers = [output.outputs[0] for output in engine.generate(prompts, sampling, use_tqdm=False)]
    return {
        "ids": [list(answer.token_ids) for answer in answers],
        "logprobs": [vllm_process.logprobs_of(answer) for answer in answers],
    }


if __name__ == "__main__":
    code = main(*sys.argv[1:])
    sys.stderr.flush()
    os._exit(code)  # an engine that hangs on shutdown would block its parent
