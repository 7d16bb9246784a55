"""Models of teachers and students: pretrained ones, and small ones trained from scratch."""

from __future__ import annotations

import typing
from dataclasses import dataclass, fields
from typing import Literal, TypeAlias


@dataclass(frozen=True, kw_only=True)
class PromptFormat:
    """How prompts are formatted for a pretrained model."""

    template: str = ""
    """none: plain text; chat: the model's chat template; otherwise the source of a Jinja template. Empty: the chat
    template if the model has one."""
    system: str = ""
    """The system prompt; empty for the template's default."""
    instruction: str = ""
    """Text before every prompt, or around it if it contains "{prompt}"."""
    date: str = "2024-07-26"
    """The date, YYYY-MM-DD, for templates that insert the current date."""
    thinking: Literal["off", "strip", "keep"] = "off"
    """off: thinking is disabled in templates that support it; strip: the model thinks, and its thinking is removed from
    the response; keep: its thinking is part of the response."""

    def instructed(self, prompt: str) -> str:
        """A prompt with its instruction."""
        if "{prompt}" in self.instruction:
            return self.instruction.replace("{prompt}", prompt)
        return f"{self.instruction}\n\n{prompt}" if self.instruction else prompt

    def document(self) -> dict[str, str]:
        """The values that differ from their defaults, as JSON values."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) != f.default}


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A pretrained model: a hub id with a revision, a directory with safetensors, or a GGUF file."""

    id: str
    revision: str | None = None
    """None until the hub has resolved it."""
    layers: str = ""
    """The layers to keep (`learn/pruning.py`): a number of layers, or indices joined by "+"; empty for all."""
    by: Literal["spacing", "similarity"] = "spacing"
    """How a number of layers is chosen: evenly spaced, or those that change their input most."""
    width: int = 0
    """Neurons to keep in the MLP of each layer; 0 for all."""
    prompts: PromptFormat = PromptFormat()
    """Prompt format."""
    parameters: float = 0
    """Number of parameters, if the id does not contain it; 0 if unknown. Not keyed."""


@dataclass(frozen=True, kw_only=True)
class ScratchModel:
    """A small Llama with random weights, and a byte-level BPE tokenizer trained on the task's training text."""

    layers: int
    width: int
    heads: int
    vocabulary: int
    context: int


ModelSource: TypeAlias = HubModel | ScratchModel


@dataclass(frozen=True, kw_only=True)
class Published(typing.Protocol):
    """A repository on the hub."""

    @property
    def id(self) -> str:
        """org/name."""

    @property
    def revision(self) -> str | None:
        """Branch, tag or commit; None for the main branch."""
