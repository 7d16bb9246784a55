"""Names of boards and files."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

DEMO_BOARD = "quickstart"
TRIAL_BOARD = "trial"
UNLISTED = frozenset({DEMO_BOARD, TRIAL_BOARD})
"""The boards of runs that name none: on this machine alone, so no index has them."""

BOARD_NAME = re.compile(r"[^\W_][\w.-]*")
"""One word: a directory on every file system, and a marker in somebody's README."""


def slug(text: str) -> str:
    """A name that is safe as one part of a path on every file system, and differs where texts differ."""
    safe = re.sub(r"[^a-z0-9.=_+-]+", "-", text.lower()).strip("-.")
    reversible = re.sub(r"[\[\],]", "-", text).strip("-.")
    if safe and len(safe) <= 80 and safe == reversible:
        return safe
    return f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")


def unversioned(selector: str, params: Mapping[str, Any]) -> str:
    """A component's selector without the hashes of local files: the same for all versions of what lies at a place.

    Args:
        selector: the canonical one, in which a local path is its last part and the beginning of its hash.
        params: as keys and records see them, in which it is its whole hash, or "absent".
    """
    for value in params.values():
        if isinstance(value, str) and (value.startswith("sha256:") or value == "absent"):
            selector = selector.replace(f"-{value.removeprefix('sha256:')[:8]}", "")
    return selector
