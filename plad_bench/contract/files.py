"""Atomic file writes, and errors for files that cannot be read or written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

from plad_bench.contract import locks
from plad_bench.contract.errors import MissingError

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "Free some space there"),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), "Allow more open files (ulimit -n)"),
}


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path`, flush it to disk, and rename it into place.

    The temporary file's name depends on `path` only, and one writer at a time can open it; the next writer overwrites
    what a killed one left.

    Raises:
        MissingError: if the disk is full or the path is not writable; an existing file is unchanged.
    """
    temporary = path.with_name(f".{path.name[:200]}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = locks.claim(temporary)
        assert handle is not None  # noqa: S101  it waits
        try:
            os.ftruncate(handle, 0)
            with os.fdopen(handle, "wb", closefd=False) as stream:
                stream.write(data)
            os.fsync(handle)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        finally:
            os.close(handle)
    except OSError as error:
        raise unwritable(path, error) from error


def refused(error: OSError) -> MissingError:
    """The error for any other OSError."""
    what = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(
        error.errno or 0, "Fix the cause and run the same command again (--debug shows the traceback)"
    )
    return MissingError(f"{what}{error.strerror or error}", f"{remedy}.")


def unreadable(name: str, error: OSError) -> MissingError:
    """The error for a file that cannot be read."""
    remedy = _REMEDIES.get(error.errno or 0, "Make it readable, or give another file")
    return MissingError(f"{name} cannot be read: {error.strerror or error}", f"{remedy}.")


def unwritable(path: Path, error: OSError) -> MissingError:
    """The error for a path that cannot be written, with a remedy for the cause."""
    remedy = _REMEDIES.get(error.errno or 0, "Make it writable")
    verb = "open" if error.errno in {errno.EMFILE, errno.ENFILE} else "write"
    return MissingError(
        f"cannot {verb} {path}: {error.strerror or error}",
        f"{remedy}, or choose another directory with --store or --boards-dir.",
    )
