"""Names that are safe as parts of a path."""

from __future__ import annotations

import hashlib
import re


def slug(text: str) -> str:
    """A name that is safe as one part of a path on every file system, and differs where texts differ."""
    safe = re.sub(r"[^a-z0-9.=_+-]+", "-", text.lower()).strip("-.")
    reversible = re.sub(r"[\[\],]", "-", text).strip("-.")
    if safe and len(safe) <= 80 and safe == reversible:
        return safe
    return f"{safe[:60]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}".lstrip("-")
