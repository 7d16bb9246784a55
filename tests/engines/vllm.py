"""A stand-in for vLLM in the engine's process: the calls that are made of it, answered greedily by transformers."""

from __future__ import annotations

from types import SimpleNamespace


class SamplingParams(SimpleNamespace):
    """What is asked of a prompt."""


class LLM:
    """A model that is read with transformers. What it is told of memory and speed is taken and not used."""

    def __init__(self, model, dtype, max_model_len, **options):
        import torch
        from transformers import AutoModelForCausalLM

        self.model = AutoModelForCausalLM.from_pretrained(model, dtype=getattr(torch, dtype)).eval()
        self.room, self.options = max_model_len, options

    def generate(self, prompts, sampling):
        """An answer to each prompt, and what the model says of the prompt's own tokens where that is asked for."""
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

        made, said = [], []
        while len(made) < sampling.max_tokens and not (made and made[-1] in getattr(sampling, "stop_token_ids", [])):
            with torch.no_grad():
                logprobs = self.model(torch.tensor([ids + made])).logits[0, -1].float().log_softmax(-1)
            made.append(int(logprobs.argmax()))
            said.append({made[-1]: SimpleNamespace(logprob=float(logprobs.max()), rank=1)})
        asked = getattr(sampling, "logprobs", None) is not None
        return SimpleNamespace(token_ids=made, logprobs=said if asked else None)
