"""Checks of Python and of packages, against what plad-bench declares and what it was tested with."""

from __future__ import annotations

import platform
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from plad_bench import Check, Finding

_US = "plad-bench"
_REINSTALL = "Install plad-bench again, with -c constraints.txt for the versions that were tested."


def python() -> Iterator[Finding]:
    """Whether this Python is one that plad-bench declares."""
    declared = SpecifierSet(metadata.metadata(_US)["Requires-Python"] or "")
    here = platform.python_version()
    what = f"{platform.python_implementation()} {here} in {sys.prefix}"
    if declared.contains(here, prereleases=True):
        yield Finding(ok=True, message=what)
    else:
        yield Finding(ok=False, message=f"{what}; plad-bench needs {declared}", remedy="Make an environment with it.")


def packages() -> Iterator[Finding]:
    """Whether every package that is needed is there, in a version that plad-bench declares."""
    wrong = [problem for need in _needs("") if (problem := _problem(need))]
    for problem in wrong:
        yield Finding(ok=False, message=problem, remedy=_REINSTALL)
    if not wrong:
        main = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "huggingface_hub"))
        yield Finding(ok=True, message=f"all {len(_needs(''))} are within their ranges: {main}")
    if differing := _untested():
        shown = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        yield Finding(ok=True, message=f"{len(differing)} differ from the tested versions (in brackets): {shown}")


def extras() -> Iterator[Finding]:
    """Which optional packages are there, and whether plad-bench can work with them."""
    absent = []
    for extra in metadata.metadata(_US).get_all("Provides-Extra") or []:
        for need in _needs(extra):
            if extra in {"test", "dev"} or need.name == _US:
                continue
            if not _version(need.name):
                absent.append(f"{need.name} (extra {extra})")
            elif problem := _problem(need):
                yield Finding(ok=False, message=problem, remedy=f"pip install 'plad-bench[{extra}]', or uninstall it.")
            else:
                yield Finding(ok=True, message=f"{need.name} {_version(need.name)} (extra {extra})")
    if absent:
        yield Finding(ok=True, message=f"not installed, and needed only where asked for: {', '.join(absent)}")


def _needs(extra: str) -> list[Requirement]:
    """What plad-bench declares for an extra, or without one where it is empty."""
    environment = {k: str(v) for k, v in default_environment().items()}
    found = []
    for line in metadata.requires(_US) or []:
        need = Requirement(line)
        always = need.marker is None or need.marker.evaluate({**environment, "extra": ""})
        if always != bool(extra) and (need.marker is None or need.marker.evaluate({**environment, "extra": extra})):
            found.append(need)
    return found


def _problem(need: Requirement) -> str:
    found = _version(need.name)
    if not found:
        return f"{need.name} is not installed; plad-bench needs {need.name}{need.specifier}"
    if need.specifier.contains(found, prereleases=True):
        return ""
    return f"{need.name} {found} is outside of what plad-bench declares: {need.specifier}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _untested() -> list[str]:
    """Installed packages in another version than that of constraints.txt, where this is a checkout that has it."""
    file = Path(__file__).parents[3] / "constraints.txt"
    if not file.is_file():
        return []
    pins = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    found = [(name, _version(name), tested) for name, tested in pins]
    return [f"{name} {here} ({tested})" for name, here, tested in found if here and here.split("+")[0] != tested]


RECORDS = (
    Check(name="python", summary="Is this a Python that plad-bench declares?", run=python),
    Check(name="packages", summary="Are all packages there, in versions that plad-bench declares?", run=packages),
    Check(name="extras", summary="Which optional packages are there?", run=extras),
)
