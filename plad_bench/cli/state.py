"""The state that commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plad_bench.contract.errors import PluginError


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
            from plad_bench.contract.registry import Registry

            self._registry = Registry.load(self.plugin_files)
            for broken in self._registry.broken:
                if broken.origin.distribution in {f.name for f in self.plugin_files}:
                    raise PluginError(
                        f"cannot load plugin file {broken.origin.distribution}: {broken.cause}", "Fix the file."
                    )
        return self._registry
