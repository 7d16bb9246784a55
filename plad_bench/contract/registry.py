"""The registry: loads plugins in isolation, and looks up components by kind and name."""

from __future__ import annotations

import difflib
import functools
import hashlib
import importlib.util
import inspect
import json
import logging
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import Distribution, EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pluggy

from plad_bench.contract import api, hookspecs
from plad_bench.contract.errors import PladBenchError, PluginError, UsageError
from plad_bench.contract.renamed import METRICS
from plad_bench.contract.suggestions import allowed_values, near_matches, suggestion

if TYPE_CHECKING:
    from plad_bench.contract.components import Component
    from plad_bench.contract.events import Event
    from plad_bench.contract.params import Params

logger = logging.getLogger("plad_bench")

GROUP = "plad_bench"
KINDS = {
    "teacher": ("plad_bench_teachers", "Teacher"),
    "pair builder": ("plad_bench_pair_builders", "PairBuilder"),
    "method": ("plad_bench_methods", "Method"),
    "metric": ("plad_bench_metrics", "Metric"),
    "task": ("plad_bench_tasks", "Task"),
    "student": ("plad_bench_students", "Student"),
    "launcher": ("plad_bench_launchers", "Launcher"),
    "check": ("plad_bench_checks", "Check"),
}
"""Kind of component -> (hook, record class)."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")


@dataclass(frozen=True)
class PluginOrigin:
    """The origin of a plugin."""

    plugin: str
    distribution: str
    """"name version", or the file name."""
    editable: bool = False
    """Whether it is installed in editable mode or a file; its components are then keyed by their source code."""


@dataclass(frozen=True)
class Broken:
    """A plugin, or one of its hooks, that failed."""

    origin: PluginOrigin
    cause: str


@dataclass(frozen=True)
class Registered:
    """A component and its origin."""

    component: Component
    origin: PluginOrigin

    @functools.cached_property
    def source_hash(self) -> str:
        """Hash of the source code of an editable component; empty for a released one, which is keyed by its version."""
        if not self.origin.editable:
            return ""
        files = {inspect.getsourcefile(thing) for thing in _callables(self.component)}
        digest = hashlib.sha256()
        for file in sorted(filter(None, files)):
            digest.update(Path(file).read_bytes())
        return digest.hexdigest()


@dataclass
class Registry:
    """The plugins of this process."""

    manager: pluggy.PluginManager
    origins: dict[str, PluginOrigin] = field(default_factory=dict)
    broken: list[Broken] = field(default_factory=list)
    files: tuple[Path, ...] = ()
    """Plugin files given with `-p`; workers load them too."""
    _components: dict[str, dict[str, list[Registered]]] = field(default_factory=dict)

    @classmethod
    def load(cls, files: Sequence[Path] = ()) -> Registry:
        """Load all installed plugins and the given files. Plugins that fail are listed in `broken`."""
        manager = pluggy.PluginManager(GROUP)
        manager.add_hookspecs(hookspecs)
        registry = cls(manager, files=tuple(Path(f).resolve() for f in files))
        for entry in sorted(entry_points(group=GROUP), key=lambda e: (e.name, e.value)):
            distribution = entry.dist
            name = f"{distribution.name} {distribution.version}" if distribution else entry.value
            # The built-in plugins are released with the harness: their versions and a snapshot test key them.
            editable = distribution is not None and distribution.name != "plad-bench" and _is_editable(distribution)
            registry.add(PluginOrigin(entry.name, name, editable), functools.partial(_load, entry))
        for file in registry.files:
            registry.add(PluginOrigin(file.stem, file.name, editable=True), functools.partial(_import_file, file))
        return registry

    def add(self, origin: PluginOrigin, load: Callable[[], Any]) -> None:
        """Load one plugin; if it fails, add it to `broken`."""
        try:
            name = self.manager.register(load(), name=f"{origin.plugin} ({origin.distribution})")
        except PladBenchError as error:
            self.broken.append(Broken(origin, ". ".join(filter(None, (error.message, error.remedy)))))
        except (Exception, SystemExit) as error:  # noqa: BLE001  a plugin that fails must not affect others
            self.broken.append(Broken(origin, f"{type(error).__name__}: {error}"))
        else:
            self.origins[name or origin.plugin] = origin

    # ------------------------------------------------------------------------------------------------ components

    def components(self, kind: str) -> dict[str, list[Registered]]:
        """The components of a kind by name; more than one entry for a name is a conflict."""
        if kind not in self._components:
            found: dict[str, list[Registered]] = {}
            for registered in self._collect(kind):
                found.setdefault(registered.component.name, []).append(registered)
            self._components[kind] = dict(sorted(found.items()))
        return self._components[kind]

    def _collect(self, kind: str) -> Iterator[Registered]:
        hook, record = KINDS[kind]
        expected = getattr(import_module("plad_bench.contract.components"), record)
        for impl in getattr(self.manager.hook, hook).get_hookimpls():
            origin = self.origins[impl.plugin_name]
            try:
                for component in impl.function():
                    _check(component, expected)
                    yield Registered(component, origin)
            except (Exception, SystemExit) as error:  # noqa: BLE001  as above
                self.broken.append(Broken(origin, f"{hook}: {type(error).__name__}: {error}"))

    def find(self, kind: str, name: str) -> Registered:
        """Look up a component.

        Raises:
            UsageError: if the name is unknown, with similar names.
            PluginError: if two distributions register the name, or if it is unknown and a plugin is broken.
        """
        components = self.components(kind)
        if kind == "metric" and name in METRICS and name not in components:
            warnings.warn(f"metric {name} is now {METRICS[name]}", FutureWarning, stacklevel=2)
            name = METRICS[name]
        found = components.get(name, [])
        if len(found) > 1:
            both = " and ".join(r.origin.distribution for r in found)
            raise PluginError(f"{kind} {name!r} is registered twice, by {both}", "Uninstall one of them.")
        if found:
            return found[0]
        by_parameter = _by_parameter(kind, name, components)
        near = by_parameter or near_matches(name, components)
        if self.broken and not near:
            broken = "; ".join(f"{b.origin.distribution}: {b.cause}" for b in self.broken)
            raise PluginError(
                f"unknown {kind} {name!r}, and a plugin that might register it is broken: {broken}",
                "Fix or uninstall the broken plugin; `plad-bench plugins` shows details.",
            )
        raise UsageError(f"unknown {kind} {name!r}", suggestion(near, components))

    def get(self, kind: str, name: str) -> Any:
        """Look up the record of a component. Errors as `find`."""
        return self.find(kind, name).component

    @staticmethod
    def configure(component: Component, values: Mapping[str, Any]) -> Any:
        """Create a component's parameters from values; strings are converted.

        Raises:
            UsageError: for an unknown parameter, with similar names, or an invalid value, with the allowed range.
        """
        return configure(component, values)

    # ------------------------------------------------------------------------------------------------ observation

    def notify(self, event: Event) -> None:
        """Call the observation hooks of all plugins. Errors are logged with the plugin's name."""
        for impl in getattr(self.manager.hook, f"plad_bench_{event.kind}").get_hookimpls():
            try:
                impl.function(event=event)
            except Exception:
                logger.exception("plugin %s failed in plad_bench_%s", impl.plugin_name, event.kind)


def configure(component: Component, values: Mapping[str, Any]) -> Params:
    """See `Registry.configure`."""
    from pydantic import ValidationError

    fields = component.params.model_fields
    for name in values:
        if name not in fields:
            raise UsageError(
                f"{component.name} has no parameter {name!r}", suggestion(near_matches(name, fields), fields)
            )
    try:
        if all(isinstance(v, str) for v in values.values()):
            return component.params.model_validate_strings(dict(values))
        return component.params.model_validate(dict(values))
    except ValidationError as error:
        first = error.errors()[0]
        where = str(first["loc"][0]) if first["loc"] else ""
        given = f"{where}={first['input']}" if where else ", ".join(f"{k}={v}" for k, v in values.items())
        message = first["msg"].removeprefix("Value error, ")
        remedy = f"Allowed: {allowed(component.params, where)}." if where in fields else ""
        raise UsageError(f"{component.name}[{given}]: {message}", remedy) from None


def allowed(params: type[Params], name: str) -> str:
    """The type and range of a parameter, as text."""
    schema = params.model_json_schema()
    return allowed_values(schema["properties"][name], schema)


def resolve(function: str | Callable[..., Any]) -> Callable[..., Any]:
    """Resolve a function given as itself or as "module:function"."""
    if not isinstance(function, str):
        return function
    module, _, name = function.partition(":")
    try:
        return getattr(import_module(module), name)  # type: ignore[no-any-return]
    except (ImportError, AttributeError) as error:
        raise PluginError(f"cannot resolve {function!r}: {error}", "Correct the component's record.") from error


def _by_parameter(kind: str, name: str, components: Mapping[str, Sequence[Registered]]) -> list[str]:
    """Suggested selectors if a parameter was given as a name: a directory, a hub id, or a model behind an API."""
    if "/" in name:
        parameter = "path" if Path(name).expanduser().exists() else "id"
    elif kind == "teacher" and not difflib.get_close_matches(name.lower(), components, n=1, cutoff=0.8):
        parameter = "model"
    else:
        return []
    having = (c for c, found in components.items() if parameter in found[0].component.params.model_fields)
    return [f"{component}[{parameter}={name}]" for component in having]


def _check(component: Any, expected: type[Component]) -> None:
    if not isinstance(component, expected):
        msg = f"yielded {type(component).__name__}, not {expected.__name__}"
        raise TypeError(msg)
    if not isinstance(component.name, str) or not _NAME.fullmatch(component.name):
        msg = f"invalid name {component.name!r}: use lower-case letters, digits, '.', '_' and '-'"
        raise ValueError(msg)
    base: Any = expected.__dataclass_fields__["params"].default
    if not (isinstance(component.params, type) and issubclass(component.params, base)):
        msg = f"{component.name}: params must be a subclass of plad_bench.{base.__name__}"
        raise TypeError(msg)
    own, usual = (of.model_fields.get("rounds") for of in (component.params, base))
    if own and usual and (own.annotation, own.default) != (usual.annotation, usual.default):
        msg = f"{component.name}: every method has a parameter `rounds` (plad_bench.MethodParams): choose another name"
        raise ValueError(msg)


def _callables(value: Any) -> Iterator[Any]:
    """All functions and classes in a record."""
    if isinstance(value, str) and re.fullmatch(r"[\w.]+:\w+", value):
        yield resolve(value)
    elif inspect.isfunction(value) or inspect.isclass(value):
        yield value
    elif isinstance(value, tuple):
        for item in value:
            yield from _callables(item)
    elif hasattr(value, "__dataclass_fields__"):
        for name in value.__dataclass_fields__:
            yield from _callables(getattr(value, name))


def _is_editable(distribution: Distribution) -> bool:
    text = distribution.read_text("direct_url.json")
    return bool(text and json.loads(text).get("dir_info", {}).get("editable"))


def _load(entry: EntryPoint) -> Any:
    api.check_module(entry.module)
    return entry.load()


def _import_file(file: Path) -> Any:
    name = f"plad_bench_file_{file.stem}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        msg = f"{file} is not a Python file"
        raise ImportError(msg)
    api.check(file.read_bytes())
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # so that records and functions of the file can be found by module name
    spec.loader.exec_module(module)
    return module
