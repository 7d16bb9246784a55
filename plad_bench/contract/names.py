"""Names of boards and files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

DEMO_BOARD = "quickstart"
TRIAL_BOARD = "trial"
UNLISTED = frozenset({DEMO_BOARD, TRIAL_BOARD})
"""Default boards of runs without --board. They are local, so the index page omits them."""

BOARD_NAME = re.compile(r"[^\W_][\w.-]*")
"""A name that works as a directory on every file system and as a marker in a README."""


def slug(text: str) -> str:
    """A name that is safe as a part of a path on every file system; different texts have different names."""
    safe = re.sub(r"[^a-z0-9.=_+-]+", "-", text.lower()).strip("-.")
    reversible = re.sub(r"[\[\],]", "-", text).strip("-.")
    if safe and len(safe) <= 80 and safe == reversible:
        return safe
    return f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def unversioned(selector: str, params: Mapping[str, Any]) -> str:
    """A component's selector without the hashes of local files, so that it is the same for all versions of the files.

    Args:
        selector: the canonical selector, in which a local path is given by its last part and the beginning of its hash.
        params: the parameters as in keys and records, in which a local path is its hash, or "absent".
    """
    for value in params.values():
        if isinstance(value, str) and (value.startswith("sha256:") or value == "absent"):
            selector = selector.replace(f"-{value.removeprefix('sha256:')[:8]}", "")
    return selector
