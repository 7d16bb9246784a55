"""The state that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any


class State:
    """The state that commands share: global options, and the registry, which is loaded on first use."""

    def __init__(self) -> None:
        self.plugin_files: tuple[Path, ...] = ()
        self.debug = False
        self.extended = False
        self._registry: Any = None

    @property
    def registry(self) -> Any:
        """The registry of all plugins."""
        if self._registry is None:
            from plad_bench.running.api import load_registry

            self._registry = load_registry(self.plugin_files)
        return self._registry
