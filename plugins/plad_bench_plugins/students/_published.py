"""The models on the hub that have a short name, for students and teachers.

They are base models unless their name contains "instruct", and their revision is resolved by the hub. All of them can
be teachers (fine-tuned on the task's references: `llama-8b[steps=500]`); those with a default teacher can also be
students. A default teacher has the tokenizer of its student, so that methods that need logits work.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CatalogueEntry:
    """A hub id, and the short name of its default teacher; empty for a model that is only a teacher."""

    id: str
    teacher: str = ""
    parameters: float = 0
    """Number of parameters, if the id does not contain it."""


PUBLISHED = {
    "llama-1b": CatalogueEntry("meta-llama/Llama-3.2-1B", "llama-8b"),
    "llama-3b": CatalogueEntry("meta-llama/Llama-3.2-3B", "llama-8b"),
    "llama-8b": CatalogueEntry("meta-llama/Llama-3.1-8B", "llama-70b"),
    "llama-70b": CatalogueEntry("meta-llama/Llama-3.1-70B"),
    "llama-8b-instruct": CatalogueEntry("meta-llama/Llama-3.1-8B-Instruct"),
    "tinyllama": CatalogueEntry("TinyLlama/TinyLlama-1.1B-intermediate-step-1431k-3T", "llama2-7b"),
    "llama2-7b": CatalogueEntry("meta-llama/Llama-2-7b-hf"),
    "qwen-0.5b": CatalogueEntry("Qwen/Qwen2.5-0.5B", "qwen-7b"),
    "qwen-1.5b": CatalogueEntry("Qwen/Qwen2.5-1.5B", "qwen-7b"),
    "qwen-3b": CatalogueEntry("Qwen/Qwen2.5-3B", "qwen-7b"),
    "qwen-7b": CatalogueEntry("Qwen/Qwen2.5-7B", "qwen-14b"),
    "qwen-14b": CatalogueEntry("Qwen/Qwen2.5-14B"),
    "qwen-7b-instruct": CatalogueEntry("Qwen/Qwen2.5-7B-Instruct"),
    "gpt2": CatalogueEntry("openai-community/gpt2", "gpt2-xl", 124e6),
    "gpt2-medium": CatalogueEntry("openai-community/gpt2-medium", "gpt2-xl", 355e6),
    "gpt2-large": CatalogueEntry("openai-community/gpt2-large", "gpt2-xl", 774e6),
    "gpt2-xl": CatalogueEntry("openai-community/gpt2-xl", parameters=1.56e9),
    # the main branch of facebook/opt-125m had pickled weights alone when last seen, which are refused; refs/pr/35 has
    # safetensors: opt-125m[revision=refs/pr/35]
    "opt-125m": CatalogueEntry("facebook/opt-125m", "opt-6.7b"),
    "opt-350m": CatalogueEntry("facebook/opt-350m", "opt-6.7b"),
    "opt-1.3b": CatalogueEntry("facebook/opt-1.3b", "opt-6.7b"),
    "opt-6.7b": CatalogueEntry("facebook/opt-6.7b"),
    "pythia-70m": CatalogueEntry("EleutherAI/pythia-70m", "pythia-6.9b"),
    "pythia-160m": CatalogueEntry("EleutherAI/pythia-160m", "pythia-6.9b"),
    "pythia-410m": CatalogueEntry("EleutherAI/pythia-410m", "pythia-6.9b"),
    "pythia-1b": CatalogueEntry("EleutherAI/pythia-1b", "pythia-6.9b"),
    "pythia-1.4b": CatalogueEntry("EleutherAI/pythia-1.4b", "pythia-6.9b"),
    "pythia-2.8b": CatalogueEntry("EleutherAI/pythia-2.8b", "pythia-6.9b"),
    "pythia-6.9b": CatalogueEntry("EleutherAI/pythia-6.9b"),
    "gpt-neo-125m": CatalogueEntry("EleutherAI/gpt-neo-125m", "gpt-neo-2.7b"),
    "gpt-neo-1.3b": CatalogueEntry("EleutherAI/gpt-neo-1.3B", "gpt-neo-2.7b"),
    "gpt-neo-2.7b": CatalogueEntry("EleutherAI/gpt-neo-2.7B"),
    "smollm-135m": CatalogueEntry("HuggingFaceTB/SmolLM2-135M", "smollm-1.7b"),
    "smollm-360m": CatalogueEntry("HuggingFaceTB/SmolLM2-360M", "smollm-1.7b"),
    "smollm-1.7b": CatalogueEntry("HuggingFaceTB/SmolLM2-1.7B"),
    "gemma-2b": CatalogueEntry("google/gemma-2-2b", "gemma-9b"),
    "gemma-9b": CatalogueEntry("google/gemma-2-9b"),
    "t5-small": CatalogueEntry("google-t5/t5-small", "t5-3b", 61e6),
    "t5-base": CatalogueEntry("google-t5/t5-base", "t5-3b", 223e6),
    "t5-large": CatalogueEntry("google-t5/t5-large", "t5-3b", 738e6),
    "t5-3b": CatalogueEntry("google-t5/t5-3b"),
}
