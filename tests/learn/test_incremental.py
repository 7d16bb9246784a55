"""Models of many kinds, read token by token while they are sampled from: a plain loop says the same."""

from __future__ import annotations

import pytest
import torch
import transformers
from learn.test_rollouts import END, EXAMPLES, PAD, VOCABULARY, plainly, tokenizer

from plad_bench import Sampling, StageError
from plad_bench.learn import incremental
from plad_bench.learn.rollouts import Rollouts

PROMPTS = [[2, 5], [2, 7, 3, 9, 4, 6, 8, 3], [2, 3, 12, 4], [2, 11]]
IDS = {"vocab_size": VOCABULARY, "bos_token_id": 2, "eos_token_id": END, "pad_token_id": PAD}
SHAPE = {
    **IDS,
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32,
    "initializer_range": 0.5,
}
WINDOW = {**SHAPE, "sliding_window": 4}
GEMMA = {**WINDOW, "head_dim": 8, "layer_types": ["sliding_attention", "full_attention"]}
MAMBA = {**IDS, "hidden_size": 16, "num_hidden_layers": 2, "state_size": 4, "initializer_range": 0.5}
SCAN = {"mamba_d_state": 4, "mamba_n_groups": 1, "mamba_chunk_size": 4, "mamba_n_heads": 2}
EXPERTS = {"num_experts": 2, "num_experts_per_tok": 1}
LINEAR = {f"linear_{name}": 2 for name in ("num_key_heads", "num_value_heads", "key_head_dim", "value_head_dim")}
ATTENDING = {
    "Llama": SHAPE,
    "Mistral": WINDOW,
    "Gemma2": GEMMA,
    "Gemma3": GEMMA,
    "Llama4": {**SHAPE, "num_hidden_layers": 4, "head_dim": 8, "attention_chunk_size": 4, "num_local_experts": 2},
    "GPTNeo": {
        **IDS,
        "hidden_size": 16,
        "num_layers": 2,
        "num_heads": 2,
        "attention_types": [[["global", "local"], 1]],
        "window_size": 4,
        "max_position_embeddings": 32,
        "initializer_range": 0.5,
    },
    "Mpt": {**IDS, "d_model": 16, "n_heads": 2, "n_layers": 2, "max_seq_len": 32, "initializer_range": 0.5},
}
STATEFUL = {
    "Mamba": MAMBA,
    "Mamba2": {**MAMBA, "num_heads": 2, "head_dim": 16, "n_groups": 1, "chunk_size": 4},
    "Lfm2": {**SHAPE, "layer_types": ["conv", "full_attention"]},
    "Jamba": {**SHAPE, **EXPERTS, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4},
    "FalconH1": {**SHAPE, **SCAN, "mamba_d_ssm": 16, "mamba_d_head": 8},
    "Qwen3Next": {
        **SHAPE,
        **EXPERTS,
        **LINEAR,
        "head_dim": 8,
        "layer_types": ["linear_attention", "full_attention"],
        "moe_intermediate_size": 8,
        "shared_expert_intermediate_size": 8,
    },
    "Rwkv": {**IDS, "hidden_size": 16, "num_hidden_layers": 2},
}


def made(kind, shape, seed):
    config = next(getattr(transformers, kind + c) for c in ("TextConfig", "Config") if hasattr(transformers, kind + c))
    torch.manual_seed(seed)
    return getattr(transformers, f"{kind}ForCausalLM")(config(**shape)).eval()


def rollouts(kind, shape):
    return Rollouts(made(kind, shape, 0), made(kind, shape, 1), tokenizer(), max_new_tokens=16, seed=0)


def sampled_and_plain(roll, sampling):
    texts = roll.sample(PROMPTS, EXAMPLES, 0, sampling)
    return texts, [plainly(roll, p, e, 0, sampling) for p, e in zip(PROMPTS, EXAMPLES, strict=True)]


@pytest.mark.parametrize("sampling", [Sampling(teacher_mix=0.3), Sampling(verify_top_k=3, draft=5)], ids=str)
@pytest.mark.parametrize("kind", [*ATTENDING, *STATEFUL])
def test_sampled_text_is_that_of_a_plain_loop(kind, sampling):
    texts, plain = sampled_and_plain(rollouts(kind, (ATTENDING | STATEFUL)[kind]), sampling)
    assert texts == plain
    assert max(map(len, texts)) > 5  # beyond every window and kernel here


@pytest.mark.parametrize("kind", [*ATTENDING, *STATEFUL])
def test_a_draft_costs_a_stateful_model_no_more_than_a_token_at_a_time(kind):
    roll = rollouts(kind, (ATTENDING | STATEFUL)[kind])
    (texts, _), cost = sampled_and_plain(roll, Sampling(verify_top_k=3, draft=5)), roll.cost
    wasted = cost["teacher_tokens_scored"] - sum(map(len, texts))
    assert (wasted > 0) == (kind in ATTENDING)


class Forgetful(incremental.Rereading):
    """Reads tokens as if nothing stood before them, as a model does that is not given the cache it asks for."""

    def logits(self, tokens):
        self.text = tokens[:, :0]
        return super().logits(tokens)


class Unmoved(incremental.Attention):
    """Takes back as many tokens of every text, where texts kept different numbers."""

    def keep(self, kept, read):
        super().keep(kept.clamp_max(int(kept.min())), read)


@pytest.mark.parametrize(
    ("wrong", "kind", "sampling", "role"),
    [
        (Forgetful, "Mamba", Sampling(), "student"),
        (Forgetful, "Rwkv", Sampling(teacher_mix=0.3), "student"),
        (Unmoved, "Mistral", Sampling(verify_top_k=6, draft=5), "student"),
    ],
)
def test_a_model_that_is_read_wrongly_is_refused_by_name(monkeypatch, wrong, kind, sampling, role):
    roll = rollouts(kind, (ATTENDING | STATEFUL)[kind])
    monkeypatch.setattr(incremental, wrong.__mro__[1].__name__, wrong)
    if wrong is Forgetful:
        monkeypatch.setattr(incremental, "Recurrent", wrong)
    with pytest.raises(StageError, match=f"{kind}ForCausalLM cannot be sampled from .* under the {role} differ"):
        roll.sample(PROMPTS, EXAMPLES, 0, sampling)


def test_a_teacher_that_is_read_wrongly_is_refused_although_the_student_is_right(monkeypatch):
    shape = ATTENDING["Llama"]
    roll = Rollouts(made("Llama", shape, 0), made("Mamba", MAMBA, 1), tokenizer(), max_new_tokens=16, seed=0)
    monkeypatch.setattr(incremental, "Recurrent", Forgetful)
    with pytest.raises(StageError, match=r"MambaForCausalLM .* under the teacher differ"):
        roll.sample(PROMPTS, EXAMPLES, 0, Sampling(teacher_mix=0.3))


def test_texts_are_compared_once_for_each_use_of_the_teacher(monkeypatch):
    roll, compared = rollouts("Llama", ATTENDING["Llama"]), []
    monkeypatch.setattr(Rollouts, "_compare", lambda *_: compared.append(1))
    for sampling in (Sampling(), Sampling(temperature=0.5), Sampling(teacher_mix=0.1), Sampling(verify_top_k=2)):
        for step in range(2):
            roll.sample(PROMPTS, EXAMPLES, step, sampling)
    assert len(compared) == 3
