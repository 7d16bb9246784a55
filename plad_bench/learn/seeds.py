"""Seeds for random choices, each a function of the purpose of the choice."""

from __future__ import annotations

import hashlib


def derive(*scope: object) -> int:
    """A 63-bit seed for a scope, such as (run seed, "order", epoch). Different scopes give independent seeds."""
    text = "\0".join(repr(part) for part in scope)
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1
