"""Suggestions for unknown names and invalid values."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def allowed_values(prop: Mapping[str, Any], schema: Mapping[str, Any]) -> str:
    """The type, range and default of a property of a JSON schema, as text."""
    options = [_resolve(option, schema) for option in prop.get("anyOf", [prop])]
    words = []
    for option in options:
        if option.get("type") == "null":
            continue
        if "enum" in option or "const" in option:
            words.append(" or ".join(str(v) for v in option.get("enum", [option.get("const")])))
            continue
        if option.get("metavar"):
            words.append(option["metavar"])
            continue
        signs = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
        bounds = [f"{sign} {option[key]:g}" for key, sign in signs.items() if key in option]
        words.append(" ".join([option.get("format") or option.get("type", "any value"), " and ".join(bounds)]).strip())
    return f"{' or '.join(words)}; default {json.dumps(prop.get('default'))}"


def near_matches(name: str, names: Iterable[str]) -> list[str]:
    """Names similar to `name`, best first."""
    names = list(names)
    close = difflib.get_close_matches(name.lower(), names, n=3, cutoff=0.6)
    return close + [n for n in names if name and n.startswith(name.lower()) and n not in close][:3]


def suggestion(near: Sequence[str], names: Iterable[str]) -> str:
    """A remedy for an unknown name."""
    if near:
        return f"Did you mean {' or '.join(near)}?"
    known = ", ".join(names)
    return f"Available: {known}." if known else "None are available."


def _resolve(option: Mapping[str, Any], schema: Mapping[str, Any]) -> Mapping[str, Any]:
    reference = option.get("$ref")
    return schema["$defs"][reference.rsplit("/", 1)[-1]] if reference else option
