"""Writing a file so that it is never half there, and what to say of one that cannot be read or written."""

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

    The temporary file's name belongs to `path`, and one writer at a time has it: what a killed writer leaves there,
    the next one overwrites.

    Raises:
        MissingError: if the disk is full or the place cannot be written; what was there before is intact.
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
    """The error for whatever else the system refused."""
    what = f"{error.filename}: " if error.filename else ""
    remedy = _REMEDIES.get(error.errno or 0, "See to that, and run the same command again (--debug shows where)")
    return MissingError(f"{what}{error.strerror or error}", f"{remedy}.")


def unreadable(name: str, error: OSError) -> MissingError:
    """The error for a file that cannot be read, which says nothing of what is in it."""
    remedy = _REMEDIES.get(error.errno or 0, "Make it readable, or give another")
    return MissingError(f"{name} cannot be read: {error.strerror or error}", f"{remedy}.")


def unwritable(path: Path, error: OSError) -> MissingError:
    """The error for a place that cannot be written, with a remedy that fits the cause."""
    remedy = _REMEDIES.get(error.errno or 0, "Make it writable")
    verb = "open" if error.errno in {errno.EMFILE, errno.ENFILE} else "write"
    return MissingError(
        f"cannot {verb} {path}: {error.strerror or error}",
        f"{remedy}, or choose another place with --store or --boards-dir.",
    )
