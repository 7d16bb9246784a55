"""Names of boards and files."""

from __future__ import annotations

import hashlib
import re

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
