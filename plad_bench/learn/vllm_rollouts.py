"""Samples on-policy text with a vLLM engine, which runs in a process of its own beside the training.

The engine starts when a step first samples, and ends with the training. Before every later step that samples, the
student's weights are written to a directory, from which the engine reads them again. Each response has a seed that
depends on (seed, step, example), so a resumed training draws with the same seeds from the same weights; equal text
then depends on vLLM's kernels alone. Where the teacher takes part in sampling, the training's own sampler does it.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers.utils import logging

from plad_bench.contract.errors import StageError
from plad_bench.contract.memory_policy import ENGINE_SHARE
from plad_bench.contract.objectives import Sampling
from plad_bench.learn import sampling_check, vllm_engine
from plad_bench.learn.incremental import reader
from plad_bench.learn.rollouts import Rollouts
from plad_bench.learn.seeds import derive

_OTHERWISE = "See the log, or use --rollouts transformers."
_PATIENCE = 10.0
"""Seconds that an engine has to end by itself."""


@dataclass
class VllmRollouts:
    """A sampler that runs the student in vLLM's engine.

    At the first hand-over of weights, the second, the fourth, the eighth and so on, log-probabilities of sampled tokens
    according to the engine are compared with the student's own, so that the engine is known to have its weights.
    """

    own: Rollouts
    """Has the student and its settings, samples where the teacher takes part, and has the costs, to which the engine's
    peak memory is added."""
    directory: Path
    """For the student's weights."""
    device: str
    context: int
    """Tokens of the longest prompt and its response."""
    elsewhere: float = field(default=0.0, init=False)
    """Device-seconds of the engine on a CPU; on a GPU this process waits for it."""
    _engine: _Engine | None = field(default=None, init=False)
    _step: int = field(default=-1, init=False)
    """The step whose weights the engine has."""
    _handed_over: int = field(default=0, init=False)
    """How often the engine was given weights."""

    def check(self, prompts: Sequence[list[int]]) -> None:
        """As `Rollouts.check`."""
        self.own.check(prompts)

    def sample(
        self, prompts: Sequence[list[int]], examples: Sequence[str], step: int, sampling: Sampling
    ) -> list[list[int]]:
        """A response to each prompt as token ids, with its end token unless it was truncated. Arguments as `Sampler`.

        Raises:
            StageError: if vLLM fails, or does not sample from the student's weights.
        """
        if sampling.uses_teacher:
            return self.own.sample(prompts, examples, step, sampling)
        fresh = step != self._step  # otherwise another term of the same step has handed the weights over
        if fresh:
            self._write_weights()
            self._step, self._handed_over = step, self._handed_over + 1
        compares = fresh and self._handed_over.bit_count() == 1
        rows = self.own.student.config.get_text_config().vocab_size
        answer = self._ask(
            {
                "reload": fresh and self._engine is not None,
                "prompts": prompts,
                "seeds": [derive(self.own.seed, "rollout", step, example) for example in examples],
                "ends": sorted(self.own.end_tokens),
                "unused": list(range(len(self.own.tokenizer), rows)),
                "temperature": sampling.temperature,
                "max_new_tokens": self.own.max_new_tokens,
                "logprobs": compares,
            }
        )
        responses: list[list[int]] = answer["ids"]
        if compares:
            self._compare(prompts, responses, answer["logprobs"])
        self.own.count("tokens_generated", sum(map(len, responses)))
        return responses

    def close(self) -> None:
        """Stop the engine."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        if self._engine is None:
            if self.device != "cpu":
                torch.cuda.empty_cache()  # the engine refuses to start where its share of the memory is not free
            self._engine = _Engine(
                {
                    **vllm_engine.settings(self.directory, self.device, self.own.precision),
                    "context": self.context,
                    "options": {
                        "enable_prefix_caching": False,  # weights change before a prompt recurs
                        "use_tqdm_on_load": False,
                        **({} if self.device == "cpu" else {"gpu_memory_utilization": ENGINE_SHARE}),
                    },
                }
            )
        answer = self._engine.ask(request)
        self.own.cost["peak_memory_bytes"] = answer["peak_memory_bytes"]
        if self.device == "cpu":
            self.elsewhere = answer["processor_seconds"] / torch.get_num_threads()
        return answer

    @torch.no_grad()
    def _write_weights(self) -> None:
        """Write the student as a model directory, in the precision of the engine."""
        dtype = torch.bfloat16 if self.own.precision == "bf16" else torch.float32
        state: dict[str, Tensor] = {}
        tied: dict[tuple[int, torch.Size], Tensor] = {}
        for name, weight in self.own.student.state_dict().items():
            where = weight.data_ptr(), weight.shape
            if where not in tied:
                tied[where] = weight.to(dtype) if weight.is_floating_point() else weight
            state[name] = tied[where]
        logging.disable_progress_bar()
        self.own.student.save_pretrained(self.directory, state_dict=state)

    @torch.no_grad()
    def _compare(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], logprobs: Sequence[list[float]]
    ) -> None:
        """Check that the engine drew from the student's own distribution.

        Raises:
            StageError: if it did not.
        """
        student, dtype = self.own.student, torch.bfloat16 if self.own.precision == "bf16" else torch.float32
        with self.own.reading():
            texts = [
                (prompts[i], responses[i], torch.tensor(logprobs[i], device=student.device))
                for i in sampling_check.chosen(prompts)
            ]
            # vLLM reports log-probabilities before the temperature, over all logits.
            plain = reader(student, 1.0, student.config.get_text_config().vocab_size)
            difference = sampling_check.difference_beyond_rounding(plain, texts, dtype)
        if difference:
            raise StageError(
                f"vLLM does not sample from the weights of {type(student).__name__}: after it was given them "
                f"{self._handed_over} times, log-probabilities of sampled tokens differ by {difference:.2g} nats on "
                "average from the student's own",
                "Use --rollouts transformers, and report the versions of vLLM and transformers as a bug.",
            )


class _Engine:
    """The engine's process."""

    def __init__(self, settings: dict[str, Any]) -> None:
        # The child reads its standard input, whose other end closes when this process ends in any way.
        self._child = subprocess.Popen(
            [sys.executable, "-P", "-m", "plad_bench.learn.vllm_rollouts_process", json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**vllm_engine.ENVIRONMENT, **os.environ},
            text=True,
        )
        self._requests: Any = self._child.stdin
        self._replies: Any = self._child.stdout

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The reply to a request.

        Raises:
            StageError: if the engine fails, or its process ends.
        """
        line = ""
        with contextlib.suppress(BrokenPipeError):
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._replies.readline()
        whole = line.endswith("\n")
        reply: dict[str, Any] = json.loads(line) if whole else {"error": f"its process ended with code {self.close()}"}
        if "error" in reply:
            raise StageError(f"vLLM failed: {reply['error']}", _OTHERWISE)
        return reply

    def close(self) -> int:
        """End the process; its exit code."""
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        try:
            return self._child.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            self._child.kill()
            return self._child.wait()
        finally:
            self._replies.close()
