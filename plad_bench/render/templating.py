"""The templates of pages and plots. Every value that enters one is escaped, unless the harness itself wrote it."""

from __future__ import annotations

from functools import cache
from typing import Any


def draw(template: str, **values: Any) -> str:
    """A template filled in; a value that it names and that is not given is an error."""
    return str(_environment().get_template(template).render(values)) + "\n"


def source(name: str) -> str:
    """A file among the templates as it is."""
    text, _, _ = _environment().loader.get_source(_environment(), name)
    return str(text)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("plad_bench.render")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
