"""The text that a model's chat template adds to a prompt, for estimates, without loading transformers."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plad_bench.contract import gguf, hub
from plad_bench.contract.errors import PladBenchError
from plad_bench.contract.models import PromptFormat
from plad_bench.plan.stage import Stage


def added(init: Stage) -> str:
    """The text around a prompt for the model of an init stage; empty if there is none, or it is unknown."""
    if "tokenizer" in init.inputs:  # from scratch
        return ""
    settings = init.spec.get("prompts", {})
    format_ = PromptFormat(**{name: value for name, value in settings.items() if name != "version"})
    directory = hub.located(init.job["id"], init.job["revision"])
    return _added(directory, format_) if directory else format_.instructed("")


@functools.cache
def _added(directory: Path, format_: PromptFormat) -> str:
    if format_.template == "none":
        return format_.instructed("")
    try:
        published, names = _of_files(directory)
        source = published if format_.template in {"", "chat"} else format_.template
        return _rendered(source, format_, names) if source else format_.instructed("")
    except Exception:  # noqa: BLE001  a template may raise anything, which the stage that needs it reports
        return format_.instructed("")


def _of_files(directory: Path) -> tuple[str, dict[str, Any]]:
    """A model's chat template, empty if it has none, and its special tokens."""
    if gguf.is_gguf(directory):
        return gguf.header(directory).template, {}
    settings = hub.settings(directory / "tokenizer_config.json", directory.name)
    tokens = {name: settings.get(name) or "" for name in ("bos_token", "eos_token", "pad_token", "unk_token")}
    names = {name: token["content"] if isinstance(token, Mapping) else token for name, token in tokens.items()}
    return hub.chat_template(directory, directory.name), names


def _rendered(source: str, format_: PromptFormat, names: Mapping[str, Any]) -> str:
    from datetime import date

    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def refuse(message: str) -> None:
        raise PladBenchError(message, "")

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
    )
    environment.globals |= {
        "raise_exception": refuse,
        "strftime_now": date.fromisoformat(format_.date).strftime,
    }
    system = [{"role": "system", "content": format_.system}] if format_.system else []
    return environment.from_string(source).render(
        messages=[*system, {"role": "user", "content": format_.instructed("")}],
        add_generation_prompt=True,
        enable_thinking=format_.thinking != "off",
        **names,
    )
