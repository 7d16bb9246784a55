"""Checks, before any work, that data, models, teachers and packages are available. Needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import MissingError
from plad_bench.contract.models import HubModel, PromptFormat
from plad_bench.plan import backends
from plad_bench.plan.cell import Cell
from plad_bench.plan.chosen import Chosen

_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt", "tekken.json")
_WITHOUT_DEFAULTS = {"PreTrainedTokenizerFast", "TokenizersBackend"}
"""Tokenizer classes without default special tokens."""
_SILENT = ("MaskedLM", "Classification", "QuestionAnswering", "MultipleChoice")
"""Parts of architecture names that are not generative, although transformers would load them with an untrained LM
head."""


def check(cells: Iterable[Cell], made: Callable[[str], bool] = lambda key: False, *, gpu: bool = True) -> None:
    """Raise MissingError for the first data set, model, metric or teacher of the cells that is unavailable.

    Downloads the small files of models on the hub, so that missing access and incompatible models are found before any
    work. `made` returns whether the artifact of a stage exists: a teacher whose responses are all stored need not be
    available. `gpu` tells whether stages run on a GPU.
    """
    seen: set[object] = set()
    known: set[str] = set()
    for cell in cells:
        stages = [stage for stage in cell.stages if stage.key not in known]
        known.update(stage.key for stage in stages)
        if cell.task.label not in seen:
            seen.add(cell.task.label)
            cell.task.component.require(cell.task.params)
            _check_commit(cell.task)
        scorers = (c.scorer for c in (*cell.metrics, cell.method, cell.pairs) if c is not None and c.scorer is not None)
        for metric in (*cell.metrics, *scorers):
            if metric.label not in seen and metric.label not in cell.absent:
                seen.add(metric.label)
                metric.component.require(metric.params)
                _check_commit(metric)
        if "vllm" not in seen and any(backends.vllm_option(s.spec) and not made(s.key) for s in stages):
            seen.add("vllm")
            backends.require_vllm()
        if "lora" not in seen and any("lora" in s.spec and not made(s.key) for s in stages):
            seen.add("lora")
            backends.require_peft()
        if "optimizer" not in seen and any("optimizer" in s.spec and not made(s.key) for s in stages):
            seen.add("optimizer")
            backends.require_bitsandbytes(gpu=gpu)
        teacher = cell.teacher
        if teacher.label not in seen and any(not made(s.key) for s in stages if s.operation == "ask"):
            seen.add(teacher.label)
            teacher.component.require(teacher.params)
        for chosen in (cell.student, teacher, *([cell.outside] if cell.outside else [])):
            if chosen.component.model is None:
                continue
            source = chosen.component.model(chosen.params)
            if isinstance(source, HubModel) and source not in seen:
                seen.add(source)
                _check_model(source, chosen.label)


def _check_commit(chosen: Chosen) -> None:
    if (read := chosen.published) is not None and chosen.commit is None:
        raise hub.unknown(chosen.label, read.id)


def _check_model(model: HubModel, label: str) -> None:
    path = Path(model.id)
    if gguf.is_gguf(path):
        gguf.check(path, f"{label}: {path.name}")
        if model.prompts.template == "chat" and not gguf.header(path).template:
            raise hub.no_template(f"{label}: {path.name}")
        return
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise MissingError(f"{label}: {path.name} has no config.json", "Give a directory in Hugging Face format.")
        hub.check_weights(path, f"{label}: {path.name}")
        _check_files(path, f"{label}: {path.name}", model.prompts)
        return
    what = f"{label}: model {model.id}"
    cached = hub.located(model.id, model.revision)
    if cached is None or hub.lacking(cached, what):
        cached = _fetch(model, what)
    if hub.commit(model.id, model.revision) is None:
        raise hub.unknown(label, model.id)
    _check_files(cached, what, model.prompts)


def _fetch(model: HubModel, what: str) -> Path:
    """Download the files that describe a model, and return their directory."""
    from huggingface_hub import HfApi, hf_hub_download

    revision = hub.pinned(model.id, model.revision)
    with hub.asking(what, model.id, model.revision):
        info = HfApi().model_info(model.id, revision=revision, timeout=10)
    files = {s.rfilename for s in info.siblings or []}
    if not any(f.endswith(".safetensors") for f in files):
        raise hub.incomplete(what, hub.NO_WEIGHTS)
    if "config.json" not in files:
        raise MissingError(f"{what} has no config.json", "Choose a model in Hugging Face format.")
    with hub.asking(what, model.id, model.revision):
        here = [hf_hub_download(model.id, n, revision=revision) for n in hub.DESCRIBING if n in files]
    return Path(here[0]).parent


def _check_files(directory: Path, what: str, prompts: PromptFormat) -> None:
    """Check the configuration and the tokenizer."""
    config = hub.settings(directory / "config.json", what)
    architectures = config.get("architectures") or []
    if not (config.get("model_type") or architectures):
        raise MissingError(f"{what}: config.json has no model_type", "Give a model in Hugging Face format.")
    if architectures and any(kind in str(architectures[0]) for kind in _SILENT):
        raise MissingError(
            f"{what}: {architectures[0]} is not a generative model", "Give a causal or encoder-decoder language model."
        )
    added = hub.settings(directory / "tokenizer.json", what).get("added_tokens") or []
    settings = hub.settings(directory / "tokenizer_config.json", what)
    if directory.is_dir() and not (settings or any((directory / name).is_file() for name in _TOKENIZERS)):
        raise MissingError(
            f"{what} has no tokenizer", "Save one to the same directory: tokenizer.save_pretrained(DIR)."
        )
    named = {**hub.settings(directory / "special_tokens_map.json", what), **settings}
    bare = settings.get("tokenizer_class") in _WITHOUT_DEFAULTS
    if named.get("eos_token") is None and (bare or "eos_token" in named):
        raise hub.no_end_token(what)
    _check_end(named.get("eos_token"), added, config, what)
    if prompts.template == "chat" and not hub.chat_template(directory, what):
        raise hub.no_template(what)


def _check_end(eos: Any, added: Any, config: Mapping[str, Any], what: str) -> None:
    """Check that the model has an embedding for the end token. A padding token without one is replaced at loading."""
    text = config.get("text_config")
    rows = (text if isinstance(text, dict) else config).get("vocab_size")
    end = eos.get("content") if isinstance(eos, dict) else eos
    numbers = {token.get("content"): token.get("id") for token in added if isinstance(token, dict)}
    number = numbers.get(end)
    if isinstance(rows, int) and isinstance(number, int) and number >= rows:
        raise hub.end_token_beyond(what, str(end), number, rows)
