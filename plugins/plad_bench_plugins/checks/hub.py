"""Checks of access to the Hugging Face hub: address, token and cache. Tokens are never printed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

from plad_bench import Check, Finding

_OFFLINE = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE")
_TIMEOUT = 10
"""Seconds to wait for the hub."""


def hub() -> Iterator[Finding]:
    """Whether the hub responds and accepts the token."""
    from huggingface_hub import HfApi, constants, get_session, get_token

    place = _without_credentials(constants.ENDPOINT)
    if offline := [name for name in _OFFLINE if os.environ.get(name, "").upper() in {"1", "ON", "YES", "TRUE"}]:
        remedy = "Unset it to download models or data. Cached files and the demo work offline."
        yield Finding(ok=True, message=f"offline: {' and '.join(offline)} is set", remedy=remedy)
        return
    try:
        answer = get_session().get(f"{constants.ENDPOINT}/api/models", params={"limit": 1}, timeout=_TIMEOUT)
        answer.raise_for_status()
    except Exception as error:  # noqa: BLE001  the HTTP library of the hub's client depends on its version
        remedy = (
            "Connect to the network, or check HF_ENDPOINT and HTTPS_PROXY. Cached files, directories and the demo "
            "work offline."
        )
        yield Finding(ok=True, message=f"{place} cannot be reached ({type(error).__name__})", remedy=remedy)
        return
    yield Finding(ok=True, message=f"{place} responds")
    if not get_token():
        yield Finding(ok=True, message="no token; gated and private models need one: `hf auth login`, or HF_TOKEN")
        return
    try:
        HfApi().whoami()
    except Exception as error:  # noqa: BLE001  as above
        remedy = "Log in again with `hf auth login`, or correct HF_TOKEN."
        message = f"the hub rejects the token ({type(error).__name__})"
        yield Finding(ok=False, message=message, remedy=remedy)
    else:
        yield Finding(ok=True, message="the hub accepts the token")


def cache() -> Iterator[Finding]:
    """Whether models can be downloaded to the cache."""
    from huggingface_hub import constants

    place = Path(constants.HF_HUB_CACHE).expanduser()
    existing = next(p for p in (place, *place.parents) if p.exists())
    free = shutil.disk_usage(existing).free
    message = f"models are downloaded to {place}, {free / 1e9:.0f} GB free"
    if not os.access(existing, os.W_OK):
        yield Finding(
            ok=False, message=f"{message}, which is not writable", remedy="Set HF_HOME to a writable directory."
        )
    elif free < 20e9:
        yield Finding(
            ok=True, message=message, remedy="An 8B model takes 16 GB; set HF_HOME to a larger disk if you need one."
        )
    else:
        yield Finding(ok=True, message=message)


def _without_credentials(address: str) -> str:
    parts = urlsplit(address)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


RECORDS = (
    Check(name="hub", summary="Does the hub respond, and is there a token?", run=hub),
    Check(name="hub-cache", summary="Is there disk space for models?", run=cache),
)
