"""The models on the hub that have a short name: one table for students and teachers.

All are base models unless their name says instruct, and their revision is open until a hub resolves it. Every one can
teach (on the task's references first: `llama-8b[steps=500]`); those with a default teacher are students too. A default
teacher shares its student's tokenizer, so that methods which need logits work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Published:
    """A hub id, and the short name of the teacher for it as a student; empty for a model that only teaches."""

    id: str
    teacher: str = ""
    parameters: float = 0
    """How many it has, where its id does not say."""


PUBLISHED = {
    "llama-1b": Published("meta-llama/Llama-3.2-1B", "llama-8b"),
    "llama-3b": Published("meta-llama/Llama-3.2-3B", "llama-8b"),
    "llama-8b": Published("meta-llama/Llama-3.1-8B", "llama-70b"),
    "llama-70b": Published("meta-llama/Llama-3.1-70B"),
    "llama-8b-instruct": Published("meta-llama/Llama-3.1-8B-Instruct"),
    "tinyllama": Published("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "llama2-7b"),
    "llama2-7b": Published("meta-llama/Llama-2-7b-hf"),
    "qwen-0.5b": Published("Qwen/Qwen2.5-0.5B", "qwen-7b"),
    "qwen-1.5b": Published("Qwen/Qwen2.5-1.5B", "qwen-7b"),
    "qwen-3b": Published("Qwen/Qwen2.5-3B", "qwen-7b"),
    "qwen-7b": Published("Qwen/Qwen2.5-7B", "qwen-14b"),
    "qwen-14b": Published("Qwen/Qwen2.5-14B"),
    "qwen-7b-instruct": Published("Qwen/Qwen2.5-7B-Instruct"),
    "gpt2": Published("openai-community/gpt2", "gpt2-xl", 124e6),
    "gpt2-medium": Published("openai-community/gpt2-medium", "gpt2-xl", 355e6),
    "gpt2-large": Published("openai-community/gpt2-large", "gpt2-xl", 774e6),
    "gpt2-xl": Published("openai-community/gpt2-xl", parameters=1.56e9),
    # the main branch of facebook/opt-125m had pickled weights alone when last seen, which are refused; refs/pr/35 has
    # safetensors: opt-125m[revision=refs/pr/35]
    "opt-125m": Published("facebook/opt-125m", "opt-6.7b"),
    "opt-350m": Published("facebook/opt-350m", "opt-6.7b"),
    "opt-1.3b": Published("facebook/opt-1.3b", "opt-6.7b"),
    "opt-6.7b": Published("facebook/opt-6.7b"),
    "pythia-70m": Published("EleutherAI/pythia-70m", "pythia-6.9b"),
    "pythia-160m": Published("EleutherAI/pythia-160m", "pythia-6.9b"),
    "pythia-410m": Published("EleutherAI/pythia-410m", "pythia-6.9b"),
    "pythia-1b": Published("EleutherAI/pythia-1b", "pythia-6.9b"),
    "pythia-1.4b": Published("EleutherAI/pythia-1.4b", "pythia-6.9b"),
    "pythia-2.8b": Published("EleutherAI/pythia-2.8b", "pythia-6.9b"),
    "pythia-6.9b": Published("EleutherAI/pythia-6.9b"),
    "gpt-neo-125m": Published("EleutherAI/gpt-neo-125m", "gpt-neo-2.7b"),
    "gpt-neo-1.3b": Published("EleutherAI/gpt-neo-1.3B", "gpt-neo-2.7b"),
    "gpt-neo-2.7b": Published("EleutherAI/gpt-neo-2.7B"),
    "smollm-135m": Published("HuggingFaceTB/SmolLM2-135M", "smollm-1.7b"),
    "smollm-360m": Published("HuggingFaceTB/SmolLM2-360M", "smollm-1.7b"),
    "smollm-1.7b": Published("HuggingFaceTB/SmolLM2-1.7B"),
    "gemma-2b": Published("google/gemma-2-2b", "gemma-9b"),
    "gemma-9b": Published("google/gemma-2-9b"),
    "t5-small": Published("google-t5/t5-small", "t5-3b", 61e6),
    "t5-base": Published("google-t5/t5-base", "t5-3b", 223e6),
    "t5-large": Published("google-t5/t5-large", "t5-3b", 738e6),
    "t5-3b": Published("google-t5/t5-3b"),
}
