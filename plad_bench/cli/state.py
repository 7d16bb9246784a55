"""What commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from plad_bench.contract.errors import PluginError


class State:
    """What commands share: options of `plad-bench` itself, and the registry, loaded when first needed."""

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
                        f"plugin file {broken.origin.distribution} cannot be loaded: {broken.cause}", "Repair it."
                    )
        return self._registry
