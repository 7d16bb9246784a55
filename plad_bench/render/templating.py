"""The templates of pages and plots. Every value is escaped unless it is marked as markup of the program."""

from __future__ import annotations

from functools import cache
from typing import Any


def draw(template: str, **values: Any) -> str:
    """Fill in a template; a value that is missing is an error."""
    return str(_environment().get_template(template).render(values)) + "\n"


def source(name: str) -> str:
    """The unprocessed text of a file among the templates."""
    text, _, _ = _environment().loader.get_source(_environment(), name)
    return str(text)


@cache
def _environment() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("plad_bench.render")
    return Environment(loader=loader, autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
