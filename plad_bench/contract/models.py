"""Models as records name them: published ones, and small ones made from scratch."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How a published model is given a prompt."""

    template: str = ""
    """none: as plain text; chat: by its chat template; else the Jinja source of another template. Empty: by its chat
    template if it has one."""
    system: str = ""
    """The system prompt; empty: what the template says of its own."""
    instruction: str = ""
    """What stands before every prompt, or around it where it holds "{prompt}"."""
    date: str = "2024-07-26"
    """The date, YYYY-MM-DD, that a template which asks for today's is given."""
    thinking: Literal["off", "strip", "keep"] = "off"
    """off: a template that knows thinking is told to do without; strip: the model thinks, and what it thinks is no part
    of its answer; keep: it is part of its answer."""

    def instructed(self, prompt: str) -> str:
        """A prompt with its instruction."""
        if "{prompt}" in self.instruction:
            return self.instruction.replace("{prompt}", prompt)
        return f"{self.instruction}\n\n{prompt}" if self.instruction else prompt

    def document(self) -> dict[str, str]:
        """What is not as it usually is, as JSON values."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model in Hugging Face format: a hub id with a revision, or a directory. Safetensors only."""

    id: str
    revision: str | None = None
    """None until a hub resolves it; never a hash that nobody saw."""
    layers: str = ""
    """Which of its layers are kept (`learn/pruning.py`): how many, or their indices joined by "+"; empty for all."""
    prompts: PromptFormat = PromptFormat()
    """How it is given prompts."""
    parameters: float = 0
    """How many it has, where its id does not say; 0 if unknown. Not keyed."""


@dataclass(frozen=True, kw_only=True)
class ScratchModel:
    """A small Llama made from scratch, with a byte-level BPE tokenizer trained on the task's training text."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int


ModelSource: TypeAlias = HubModel | ScratchModel


@dataclass(frozen=True, kw_only=True)
class Published(typing.Protocol):
    """A repository of the hub."""

    @property
    def id(self) -> str:
        """org/name."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit; None is the main branch."""
