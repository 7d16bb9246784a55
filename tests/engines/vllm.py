"""A stand-in for vLLM in the engine's process: the calls that are made of it, answered by transformers."""

from __future__ import annotations

import os
import time
from pathlib import Path
from types import SimpleNamespace


class SamplingParams(SimpleNamespace):
    """What is asked of a prompt."""


class LLM:
    """A model that is read with transformers. What it is told of memory and speed is taken and not used."""

    def __init__(self, model, dtype, max_model_len, **options):
        self.place, self.dtype, self.room, self.options = model, dtype, max_model_len, options
        self._load()
        if file := os.environ.get("STAND_IN_GPUS"):  # where it says which ones share the model
            seen = os.environ.get("CUDA_VISIBLE_DEVICES")
            Path(file).write_text(f"{options['tensor_parallel_size']} share it, of {seen}")

    def _load(self):
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(self.place, dtype=getattr(torch, self.dtype)).eval()

    def collective_rpc(self, method):
        """Read the weights again; a stand-in that forgets does not."""
        assert method == "reload_weights"
        if "STAND_IN_FORGETS" not in os.environ:
            self._load()

    def apply_model(self, function):
        """What a function returns for the model."""
        return [function(self.model)]

    def generate(self, prompts, sampling, use_tqdm=True):
        """An answer to each prompt, and what the model says of the prompt's own tokens where that is asked for."""
        if file := os.environ.get("STAND_IN_HANGS"):  # and says where it does
            Path(file).touch()
            time.sleep(600)
        each = sampling if isinstance(sampling, list) else [sampling] * len(prompts)
        return [self._answer(p["prompt_token_ids"], s) for p, s in zip(prompts, each, strict=True)]

    def _answer(self, ids, sampling):
        import torch

        assert len(ids) + sampling.max_tokens <= self.room
        k = getattr(sampling, "prompt_logprobs", None)
        with torch.no_grad():
            logprobs = self.model(torch.tensor([ids])).logits[0].float().log_softmax(-1)
        said = [None, *(self._said(row, token, k) for row, token in zip(logprobs, ids[1:], strict=False))]
        return SimpleNamespace(
            prompt_logprobs=said if k else None,
            outputs=[self._continued(ids, sampling)],
        )

    def _said(self, row, token, k):
        """The k likeliest tokens and the one that was said; ranks begin at 1, and the engine allows k of a request."""
        assert k is None or k <= self.options["max_logprobs"]
        kept = {*row.topk(k or 1).indices.tolist(), token}
        return {t: SimpleNamespace(logprob=float(row[t]), rank=1 + int((row > row[t]).sum())) for t in kept}

    def _continued(self, ids, sampling):
        import torch

        generator = torch.Generator().manual_seed(getattr(sampling, "seed", 0))
        made, said = [], []
        while len(made) < sampling.max_tokens and not (made and made[-1] in getattr(sampling, "stop_token_ids", [])):
            with torch.no_grad():
                logits = self.model(torch.tensor([ids + made])).logits[0, -1].float()
            made.append(self._drawn(logits, sampling, generator))
            logprob = float(logits.log_softmax(-1)[made[-1]])  # before bias and temperature
            said.append({made[-1]: SimpleNamespace(logprob=logprob, rank=1)})
        asked = getattr(sampling, "logprobs", None) is not None
        return SimpleNamespace(token_ids=made, logprobs=said if asked else None)

    def _drawn(self, logits, sampling, generator):
        import torch

        for token, bias in (getattr(sampling, "logit_bias", None) or {}).items():
            logits = logits.index_add(0, torch.tensor([token]), torch.tensor([bias]))
        if not sampling.temperature:
            return int(logits.argmax())
        return int(torch.multinomial((logits / sampling.temperature).softmax(-1), 1, generator=generator))
