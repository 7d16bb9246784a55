"""What every side of benchmarks/peers.py trains on, what a turn of it measures, and its clock."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from words import tokenizer as of_words

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocabulary": 4096, "batch": 8, "prompt": 64, "response": 190,
        "student": {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 3, "num_attention_heads": 4},
        "teacher": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 8},
    },
    "49k": {
        "vocabulary": 49152, "batch": 4, "prompt": 64, "response": 192,
        "student": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 2, "num_attention_heads": 9,
                    "num_key_value_heads": 3},
        "teacher": {"hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 4, "num_attention_heads": 9,
                    "num_key_value_heads": 3},
    },
    "1b": {
        "vocabulary": 128256, "batch": 8, "prompt": 128, "response": 384,
        "student": {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 16,
                    "num_attention_heads": 32, "num_key_value_heads": 8},
        "teacher": {"hidden_size": 3072, "intermediate_size": 8192, "num_hidden_layers": 28,
                    "num_attention_heads": 24, "num_key_value_heads": 8},
    },
}  # fmt: skip
CLIP = 1.0
LR = 1e-5


@dataclass
class Work:
    """What every side trains on."""

    shape: dict[str, Any]
    device: str
    new_tokens: int
    sequences: list[tuple[list[int], list[int]]] = field(default_factory=list)
    rejected: list[tuple[list[int], list[int]]] = field(default_factory=list)

    def __post_init__(self) -> None:
        generator = torch.Generator().manual_seed(1)
        batch, prompt, longest = self.shape["batch"], self.shape["prompt"], self.shape["response"]

        def ids(count: int) -> list[int]:
            return torch.randint(3, self.shape["vocabulary"], (count,), generator=generator).tolist()

        def response() -> list[int]:
            return [*ids(int(torch.randint(longest // 2, longest, (), generator=generator))), 1]

        prompts = [ids(prompt) for _ in range(batch)]
        self.sequences = [(p, response()) for p in prompts]
        self.rejected = [(p, response()) for p in prompts]
        self.teacher = self.model("teacher", 7).eval().requires_grad_(False)  # noqa: FBT003
        if self.cuda:
            self.teacher = self.teacher.to(torch.bfloat16)

    @property
    def cuda(self) -> bool:
        """Whether the device is a GPU."""
        return self.device == "cuda"

    def model(self, role: str, seed: int) -> Any:
        """A Llama with random weights of the student's or the teacher's shape, on the device."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=self.shape["vocabulary"], max_position_embeddings=2048, tie_word_embeddings=True,
            bos_token_id=0, eos_token_id=1, pad_token_id=2, **self.shape[role],
        )  # fmt: skip
        torch.manual_seed(seed)
        with torch.device(self.device):
            return LlamaForCausalLM(config)

    def student(self) -> Any:
        """The student as every side begins with it."""
        return self.model("student", 0)

    def tokenizer(self) -> Any:
        """One that says the random tokens."""
        return of_words(self.shape["vocabulary"])

    def autocast(self) -> Any:
        """bf16 arithmetic on a GPU."""
        return torch.autocast(self.device, torch.bfloat16, enabled=self.cuda)


@dataclass
class Turn:
    """What one turn of one side measured."""

    loss: float
    seconds: list[float]
    bytes: int


class Clock:
    """Seconds between calls: processor time on a CPU, wall-clock time on a GPU."""

    def __init__(self, work: Work) -> None:
        self.work, self.seconds = work, []
        self.last = self.now()

    def now(self) -> float:
        """The time."""
        if not self.work.cuda:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def tick(self) -> None:
        """The end of a step."""
        now = self.now()
        self.seconds.append(now - self.last)
        self.last = now


def padded(work: Work, sequences: Sequence[tuple[list[int], list[int]]]) -> tuple[Tensor, Tensor, Tensor]:
    """Right-padded ids, mask, and labels where there is a response, each [B, T]."""
    longest = max(len(p) + len(r) for p, r in sequences)
    ids = torch.full((len(sequences), longest), 2)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for row, (prompt, response) in enumerate(sequences):
        both = torch.tensor(prompt + response)
        ids[row, : len(both)], mask[row, : len(both)] = both, 1
        labels[row, len(prompt) : len(both)] = both[len(prompt) :]
    return ids.to(work.device), mask.to(work.device), labels.to(work.device)
