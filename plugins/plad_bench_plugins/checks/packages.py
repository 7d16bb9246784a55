"""Checks that the versions of Python and packages match plad-bench's requirements and the tested versions."""

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
_REINSTALL = "Reinstall plad-bench, with -c constraints.txt for the tested versions."


def python() -> Iterator[Finding]:
    """Whether plad-bench supports this version of Python."""
    declared = SpecifierSet(metadata.metadata(_US)["Requires-Python"] or "")
    here = platform.python_version()
    what = f"{platform.python_implementation()} {here} in {sys.prefix}"
    if declared.contains(here, prereleases=True):
        yield Finding(ok=True, message=what)
    else:
        yield Finding(
            ok=False,
            message=f"{what}; plad-bench needs {declared}",
            remedy="Create an environment with a supported version.",
        )


def packages() -> Iterator[Finding]:
    """Whether all required packages are installed in supported versions."""
    wrong = [problem for need in _needs("") if (problem := _problem(need))]
    for problem in wrong:
        yield Finding(ok=False, message=problem, remedy=_REINSTALL)
    if not wrong:
        main = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", "transformers", "huggingface_hub"))
        yield Finding(ok=True, message=f"all {len(_needs(''))} have supported versions: {main}")
    if differing := _untested():
        shown = ", ".join(differing[:6]) + (f" and {len(differing) - 6} more" if len(differing) > 6 else "")
        yield Finding(ok=True, message=f"{len(differing)} differ from the tested versions (in parentheses): {shown}")


def extras() -> Iterator[Finding]:
    """Which optional packages are installed, and whether their versions are supported."""
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
        yield Finding(ok=True, message=f"optional, not installed: {', '.join(absent)}")


def _needs(extra: str) -> list[Requirement]:
    """The requirements of an extra, or the core requirements if it is empty."""
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
    return f"{need.name} {found} is not supported; plad-bench needs {need.name}{need.specifier}"


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return ""


def _untested() -> list[str]:
    """Installed packages whose version differs from constraints.txt, if this is a checkout."""
    file = Path(__file__).parents[3] / "constraints.txt"
    if not file.is_file():
        return []
    pins = (line.split("==") for line in file.read_text(encoding="utf-8").splitlines() if "==" in line)
    found = [(name, _version(name), tested) for name, tested in pins]
    return [f"{name} {here} ({tested})" for name, here, tested in found if here and here.split("+")[0] != tested]


RECORDS = (
    Check(name="python", summary="Is this version of Python supported?", run=python),
    Check(name="packages", summary="Are all required packages installed, in supported versions?", run=packages),
    Check(name="extras", summary="Which optional packages are installed?", run=extras),
)
