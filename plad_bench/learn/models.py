"""Creates, loads and saves models and tokenizers. Weights come from safetensors or GGUF; remote code never runs."""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    GenerationConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import MissingError
from plad_bench.contract.models import PromptFormat
from plad_bench.learn import prompts, ranks
from plad_bench.learn.memory import is_short, room_for
from plad_bench.learn.seeds import derive
from plad_bench.learn.sequences import Encoder

POINTER = "pointer.json"
"""A file in a model directory that refers to a published model: {id, revision}."""

_FILES = ["*.json", "*.safetensors", "*.model", "*.txt", "*.jinja"]


def from_scratch(tokenizer_path: Path, spec: Mapping[str, Any]) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A randomly initialised Llama with tied embeddings, of spec's layers, width, heads, context and seed."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = AutoTokenizer.from_pretrained(tokenizer_path, trust_remote_code=False)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=spec["width"],
        intermediate_size=4 * spec["width"] * 2 // 3,
        num_hidden_layers=spec["layers"],
        num_attention_heads=spec["heads"],
        num_key_value_heads=spec["heads"],
        max_position_embeddings=spec["context"],
        tie_word_embeddings=True,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(derive(spec["seed"], "init"))
    return LlamaForCausalLM(config), tokenizer


def resolve(model_id: str, revision: str | None) -> dict[str, Any]:
    """Download a published model if needed; {id, revision} with the revision that the hub resolved.

    Raises:
        MissingError: if it is not available, or has no safetensors.
    """
    if gguf.is_gguf(model_id):
        return {"id": model_id, "revision": revision}
    if Path(model_id).is_dir():
        path, what = Path(model_id), f"model {Path(model_id).name}"
    else:
        path, what = _download(model_id, hub.pinned(model_id, revision)), f"model {model_id}"
        revision = path.name
    hub.check_weights(path, what)
    return {"id": model_id, "revision": revision}


def _download(model_id: str, revision: str | None) -> Path:
    """The hub's cached directory of a model, complete."""
    from huggingface_hub import snapshot_download

    with hub.asking(f"model {model_id}", model_id, revision):
        return Path(snapshot_download(model_id, revision=revision, allow_patterns=_FILES))


def load(path: Path, device: str, precision: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model of a model directory, in eval mode on a device in the given precision, and its tokenizer.

    Of the published generation settings only the end tokens are kept, so generation is greedy unless told otherwise.

    Raises:
        MissingError: if the tokenizer has no end token, or the model has no embedding for it.
        StageError: if the model exceeds the device's memory.
    """
    source, name = located(path)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    with room_for(f"loading the model {name}"):
        with _loading(f"model {name}", source):
            config = _without_padding_beyond(AutoConfig.from_pretrained(**_source(source), trust_remote_code=False))
            kind: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
            model, info = kind.from_pretrained(
                **_source(source),
                **_dequantised(source),
                trust_remote_code=False,
                config=config,
                dtype=dtype,
                use_safetensors=True,
                output_loading_info=True,
            )
        if absent := sorted(info["missing_keys"] & {parameter for parameter, _ in model.named_parameters()}):
            raise MissingError(f"model {name} has no weights {absent[0]}", "Use a model with a trained language head.")
        if gguf.is_gguf(source):
            _forget_quantisation(model)
        move: Any = model.to
        model = move(device).eval()
    tokenizer = load_tokenizer(source, name, format_of(path), rows=embedded(model))
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=sorted(end_tokens(model.generation_config, tokenizer)),
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=model.generation_config.decoder_start_token_id,
    )
    return model, tokenizer


def _source(place: Path) -> dict[str, Any]:
    """The arguments by which transformers reads the files of a directory, or of a GGUF file."""
    if not gguf.is_gguf(place):
        return {"pretrained_model_name_or_path": place}
    return {"pretrained_model_name_or_path": place.parent, "gguf_file": place.name}


def _dequantised(place: Path) -> dict[str, Any]:
    """The argument that asks for the weights of a GGUF file as plain tensors, where transformers could keep blocks."""
    from transformers import utils

    config = getattr(utils.quantization_config, "GgufConfig", None) if gguf.is_gguf(place) else None
    return {"quantization_config": config(dequantize=True)} if config else {}


def _forget_quantisation(model: Any) -> None:
    """Make a model from a GGUF file, whose weights are dequantised, like any other; otherwise it cannot be saved."""
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.hf_quantizer, model.is_quantized, model.quantization_method = None, False, None


def _without_padding_beyond(config: PreTrainedConfig) -> PreTrainedConfig:
    """The configuration, without a padding token that has no embedding: torch refuses such a model."""
    part = config.get_text_config()
    pad = getattr(part, "pad_token_id", None)
    if isinstance(pad, int) and pad >= part.vocab_size:
        part.pad_token_id = None
    return config


@contextmanager
def _loading(what: str, source: Path) -> Iterator[None]:
    """Turn transformers' errors about files that it cannot load into a MissingError."""
    try:
        yield
    except Exception as error:  # transformers and its dependencies raise many types
        if is_short(error):
            raise
        text = str(error).strip().replace(str(source), source.name) or "nothing"
        said = f"{type(error).__name__}: {text.splitlines()[0][:300]}"
        if "trust_remote_code" in text:
            said = "it needs code of its repository, which is never executed"
        elif "ignore_mismatched_sizes" in text:
            said = "the shapes of its weights differ from its config.json"
        raise MissingError(
            f"{what} cannot be loaded: {said}",
            "Download or save it again, or choose a language model that this version of transformers supports.",
        ) from error


def located(path: Path) -> tuple[Path, str]:
    """The directory, or the GGUF file, that a model directory refers to, otherwise itself; and a display name.

    Raises:
        MissingError: if it refers to a directory or file that no longer exists.
    """
    if not (path / POINTER).is_file():
        return path, path.parent.name[:12]
    pointer = json.loads((path / POINTER).read_text())
    name = Path(pointer["id"]).name
    if Path(pointer["id"]).is_absolute() and not Path(pointer["id"]).exists():
        raise MissingError(
            f"the model {name} was moved or deleted",
            f"Restore it, or remove {path.parent.name[:12]} from the store's artifacts and run again.",
        )
    if gguf.is_gguf(pointer["id"]):
        return Path(pointer["id"]), name
    # From the directory of its files: loading by id would contact the hub again, which may be unavailable.
    here = hub.located(pointer["id"], pointer["revision"])
    whole = here is not None and not hub.lacking(here, f"model {name}")
    return here if here and whole else _download(pointer["id"], pointer["revision"]), name


def load_tokenizer(
    source: Path, name: str, format_: PromptFormat | None = None, rows: int = 0
) -> PreTrainedTokenizerBase:
    """The tokenizer of a directory; a prompt format replaces the saved one.

    If it has no pad token, or the pad token is none of the `rows` tokens with an embedding, it pads with its end token.
    Masks never depend on ids, so both may be the same token.

    Raises:
        MissingError: if it has no end token or no requested template, or the model has no embedding for the end token.
    """
    with _loading(f"the tokenizer of {name}", source):
        tokenizer = AutoTokenizer.from_pretrained(**_source(source), trust_remote_code=False)
    if tokenizer.eos_token_id is None:
        raise hub.no_end_token(name)
    if rows and tokenizer.eos_token_id >= rows:
        raise hub.end_token_beyond(name, str(tokenizer.eos_token), tokenizer.eos_token_id, rows)
    if tokenizer.pad_token_id is None or (rows and tokenizer.pad_token_id >= rows):
        tokenizer.pad_token = tokenizer.eos_token
    if format_ is not None:
        prompts.apply_format(tokenizer, format_, name)
    return tokenizer


def format_of(path: Path) -> PromptFormat | None:
    """The prompt format of a model directory; None if the tokenizer stores it."""
    pointer = path / POINTER
    return PromptFormat(**json.loads(pointer.read_text()).get("prompts", {})) if pointer.is_file() else None


def end_tokens(config: GenerationConfig | None, tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that end a response: the chat template's end of turn, the tokenizer's end token, published ones."""
    published = config.eos_token_id if config else None
    more = published if isinstance(published, list) else [published]
    return {Encoder(tokenizer, 0).end, tokenizer.eos_token_id, *(token for token in more if token is not None)}


def save(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, path: Path) -> None:
    """Write a Hugging Face directory."""
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)


def save_trained(model: nn.Module, file: Path) -> None:
    """Write the weights that are trained, atomically, on the first rank. If they are sharded, all ranks call this."""
    weights = {name: ranks.whole(p.detach()).cpu().contiguous() for name, p in _trained(model)}
    if ranks.rank():
        return
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_suffix(".tmp")
    save_file(weights, temporary)
    temporary.replace(file)


def load_trained(model: nn.Module, file: Path) -> None:
    """Give a model weights that were trained in one with the same parameters."""
    weights = load_file(file)
    with torch.no_grad():
        for name, parameter in _trained(model):
            parameter.copy_(weights[name])


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if p.requires_grad]


def layers(model: nn.Module) -> list[nn.Module]:
    """The modules that transformers itself never divides, without those inside others; none if it does not say."""
    names = set(getattr(model, "_no_split_modules", None) or ())
    named = [part for part in model.modules() if type(part).__name__ in names]
    inner = {id(part) for layer in named for part in layer.modules() if part is not layer}
    return [layer for layer in named if id(layer) not in inner]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Within, a model is in eval mode; then in the mode that it was in."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, counts: dict[str, float] | None = None
) -> Encoder:
    """The encoder of a model; it counts texts that do not fit."""
    rows = embedded(model)
    counts = {} if counts is None else counts
    return Encoder(tokenizer, context_length(model), counts, model.config.is_encoder_decoder, rows)


def embedded(model: PreTrainedModel) -> int:
    """The number of tokens with an embedding; 0 if the model does not say."""
    return int(getattr(model.get_input_embeddings(), "num_embeddings", 0))


def encoder_of_files(
    source: Path, name: str, format_: PromptFormat | None, counts: dict[str, float] | None = None
) -> Encoder:
    """The encoder of a model, from its configuration and tokenizer alone. Errors as load_tokenizer."""
    with _loading(f"model {name}", source):
        config = AutoConfig.from_pretrained(**_source(source), trust_remote_code=False)
    rows = int(getattr(config.get_text_config(), "vocab_size", 0))
    tokenizer = load_tokenizer(source, name, format_, rows)
    return Encoder(tokenizer, context_of(config), {} if counts is None else counts, config.is_encoder_decoder, rows)


def checkpoint(model: PreTrainedModel) -> None:
    """Make a model in train mode keep only the inputs of its layers and recompute activations for the gradient.

    Eval mode is unaffected, so sampling can use the cache. Models without support stay unchanged.
    """
    if model.supports_gradient_checkpointing:
        # Renamed in transformers 5.23.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})


def context_length(model: PreTrainedModel) -> int:
    """The model's context length in tokens."""
    return context_of(model.config)


def context_of(config: PreTrainedConfig) -> int:
    """The context length in tokens of a model with this configuration."""
    config = config.get_text_config()
    return int(getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None) or 2048)


def peak_memory(device: str) -> int:
    """Peak memory in bytes: of the device's allocator, or of this process."""
    if device.startswith("cuda"):
        return int(torch.cuda.max_memory_allocated(device))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
