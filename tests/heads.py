"""Tiny models with the output heads of published ones, and one whose head nobody knows."""

from __future__ import annotations

from typing import Any

import tiny

V = 300


def heads() -> dict[str, Any]:
    """Models with the heads that published ones have."""
    from transformers import (
        CohereConfig,
        CohereForCausalLM,
        Gemma2Config,
        Gemma2ForCausalLM,
        GraniteConfig,
        GraniteForCausalLM,
        PhiConfig,
        PhiForCausalLM,
    )

    size = {
        "vocab_size": V,
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "initializer_range": 0.3,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 2,
    }
    return {
        "tied": lambda: tiny.llama(1, tie_word_embeddings=True),
        "untied": lambda: tiny.llama(1, tie_word_embeddings=False),
        "bias": lambda: PhiForCausalLM(PhiConfig(**size)),
        "soft-capped": lambda: Gemma2ForCausalLM(Gemma2Config(**size, head_dim=8, final_logit_softcapping=3.0)),
        "scaled up": lambda: CohereForCausalLM(CohereConfig(**size, logit_scale=0.25)),
        "scaled down": lambda: GraniteForCausalLM(GraniteConfig(**size, logits_scaling=4.0)),
        "gpt2": lambda: tiny.gpt2(1),
        "neox": lambda: tiny.neox(1),
    }


def headed(kind: str) -> Any:
    """A model with the head of a kind, its weights random, a bias included; in eval mode."""
    import torch

    torch.manual_seed(0)
    model = heads()[kind]().eval()
    if kind == "bias":
        torch.nn.init.normal_(model.lm_head.bias)
    return model


class Odd:
    """Makes a model's own logits differ from what its head gives."""

    def __init__(self, model, change):
        forward = type(model).forward

        def changed(self, *args, **kwargs):
            output = forward(self, *args, **kwargs)
            output.logits = change(output.logits)
            return output

        model.__class__ = type("OddLlama", (type(model),), {"forward": changed})
