"""Parameters of teachers and students: models from scratch, and models in Hugging Face format."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import model_validator

from plad_bench import HubModel, MissingError, Params, PromptFormat, ScratchModel, UsageError, param
from plad_bench.contract.gguf import is_gguf


class ScratchParams(Params):
    """Size of a Llama trained from scratch."""

    layers: int = param(2, ge=1, source="ours")
    """Transformer blocks."""
    width: int = param(64, ge=2, source="ours")
    """Size of the hidden states."""
    heads: int = param(4, ge=1, source="ours")
    """Attention heads."""
    vocabulary: int = param(768, ge=260, source="ours")
    """Vocabulary size of the byte-level BPE: 256 bytes, a few special tokens, the rest learnt from the task's text."""
    context: int = param(256, ge=8, source="ours")
    """Maximum number of tokens of prompt and response together."""

    @model_validator(mode="after")
    def _even_heads(self) -> Self:
        if self.width % (2 * self.heads):
            msg = f"width={self.width} must be an even multiple of heads={self.heads} (for rotary embeddings)"
            raise ValueError(msg)
        return self

    def model(self) -> ScratchModel:
        """The model of this size."""
        return ScratchModel(
            layers=self.layers,
            width=self.width,
            heads=self.heads,
            vocabulary=self.vocabulary,
            context=self.context,
        )


class PromptParams(Params):
    """Prompt format of a published model."""

    template: Literal["", "none", "chat"] = param("", source="ours")
    """Prompt template: chat, the model's chat template; none, plain text. Empty: chat if the model has a template."""
    template_file: Path | None = param(None, local=True, source="ours")
    """A Jinja file to use as the chat template. Keys and records contain the hash of its content."""
    system: str = param("", source="ours")
    """System prompt; empty for the template's default."""
    instruction: str = param("", source="ours")
    """Text before every prompt, or around it if it contains {prompt}."""
    thinking: Literal["off", "strip", "keep"] = param("off", source="ours")
    """Thinking of reasoning models. off: disabled; strip: enabled, and removed from responses; keep: enabled, and part
    of responses."""
    date: str = param(PromptFormat().date, pattern=r"^\d{4}-\d\d-\d\d$", source="Llama 3's template")
    """The date, YYYY-MM-DD, for templates that insert the current date."""

    @model_validator(mode="after")
    def _one_template(self) -> Self:
        if self.template and self.template_file is not None:
            msg = "give either template or template_file"
            raise ValueError(msg)
        datetime.date.fromisoformat(self.date)
        return self

    def public(self) -> dict[str, Any]:
        """As in `Params`, without parameters of this class with default values, so that old records stay valid."""
        usual = {name: info.default for name, info in PromptParams.model_fields.items()}
        return {name: v for name, v in super().public().items() if name not in usual or v != usual[name]}

    def prompts(self) -> PromptFormat:
        """The prompt format.

        Raises:
            MissingError: if the template file cannot be read.
        """
        template = self.template if self.template_file is None else _text(self.template_file.expanduser())
        return PromptFormat(
            template=template,
            system=self.system,
            instruction=self.instruction,
            thinking=self.thinking,
            date=self.date,
        )


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MissingError(f"template_file {file} cannot be read: {error}", "Give a Jinja file in UTF-8.") from None


class RevisionParams(PromptParams):
    """Parameters of an alias of a published model."""

    revision: str | None = param(None, min_length=1, source="ours")
    """Branch, tag or commit on the hub. If unset, the default branch, resolved once per board."""


class PlaceParams(Params):
    """Location of a model in Hugging Face format."""

    id: str = param("", pattern=r"^([\w.-]*\w(/[\w.-]*\w)?)?$", source="ours")
    """Hub id, org/name."""
    path: Path | None = param(None, local=True, source="ours")
    """Local directory. Keys and records contain the hash of its content."""
    revision: str | None = param(None, min_length=1, source="ours")
    """Branch, tag or commit of `id`. If unset, the default branch, resolved once per board."""

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if bool(self.id) == (self.path is not None):
            msg = "give either id=ORG/NAME (a model on the hub) or path=DIR (a directory)"
            raise ValueError(msg)
        if self.path is not None and self.revision is not None:
            msg = "revision needs a hub id; local files are identified by their content"
            raise ValueError(msg)
        return self

    def model(self) -> HubModel:
        """The model at this location.

        Raises:
            MissingError: if `path` is not a directory.
            UsageError: if `id` is also a local directory (see `hub_model`).
        """
        if self.path is None:
            return hub_model(self.id, self.revision)
        place = self.path.expanduser().resolve()
        if not place.is_dir():
            raise MissingError(f"no directory {place}", "Give path= a directory that contains config.json and weights.")
        return HubModel(id=str(place))


class HFParams(PromptParams, PlaceParams):
    """Any model in Hugging Face format, or in a GGUF file."""

    path: Path | None = param(None, local=True, source="ours")
    """Local directory, or GGUF file. Keys and records contain the hash of its content."""

    def model(self) -> HubModel:
        """The model at this location, with its prompt format."""
        file = self.path.expanduser().resolve() if self.path else None
        model = HubModel(id=str(file)) if file and is_gguf(file) else super().model()
        return dataclasses.replace(model, prompts=self.prompts())


class PrunedParams(HFParams):
    """A model in Hugging Face format, pruned to some of its layers."""

    layers: str = param("6", pattern=r"^([1-9]\d*|\d+(\+\d+)+)$", source="ours")
    """Number of layers to keep, such as 12; or their indices from 0, joined by "+", such as 0+5+11."""
    by: Literal["spacing", "similarity"] = param("spacing", unsaid=True, source="ours")
    """How a number of layers is chosen. spacing: the first, the last, and others at even spaces; similarity: without
    those whose output is most similar to their input on the task's training text (arXiv:2403.03853)."""
    width: int = param(0, ge=0, unsaid=True, source="ours")
    """Neurons to keep in the MLP of each layer: those with the largest activations on the task's training text
    (arXiv:2407.14679). 0 keeps all."""

    @model_validator(mode="after")
    def _one_choice(self) -> Self:
        if self.by == "similarity" and "+" in self.layers:
            msg = f"by=similarity chooses the layers itself: give their number instead of layers={self.layers}"
            raise ValueError(msg)
        return self

    def model(self) -> HubModel:
        """The model at this location, with the layers and neurons to keep."""
        return dataclasses.replace(super().model(), layers=self.layers, by=self.by, width=self.width)


def hub_model(
    id: str,  # noqa: A002
    revision: str | None,
    prompts: PromptFormat | None = None,
    parameters: float = 0,
) -> HubModel:
    """A model on the hub.

    Raises:
        UsageError: if a local directory has this name: loaders would read it, but its content would not be keyed.
    """
    if Path(id).is_dir():
        raise UsageError(
            f"{id} is a model on the hub, but also a local directory",
            f"Write hf[path={id}] to use the directory, or run in another working directory to use the hub.",
        )
    return HubModel(id=id, revision=revision, prompts=prompts or PromptFormat(), parameters=parameters)
