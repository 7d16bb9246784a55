"""Writing a file so that it is never half there, and what to say of one that cannot be read or written."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

from plad_bench.contract.errors import MissingError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, flush it to disk, and rename it into place.

    Raises:
        MissingError: if the disk is full or the place cannot be written; what was there before is intact.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:40]}.", suffix=".tmp")
        with os.fdopen(handle, "wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise unwritable(path, error) from error


def unreadable(name: str, error: OSError) -> MissingError:
    """The error for a file of the user's that cannot be read."""
    return MissingError(f"{name} cannot be read: {error.strerror or error}", "Make it readable, or give another.")


def unwritable(path: Path, error: OSError) -> MissingError:
    """The error for a place that cannot be written, with a remedy that fits the cause."""
    remedy = "Free some space there" if error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG} else "Make it writable"
    return MissingError(
        f"cannot write {path}: {error.strerror or error}",
        f"{remedy}, or choose another place with --store or --boards-dir.",
    )
