"""Locks between processes. The operating system releases a lock when its holder ends, so that no lock becomes stale."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from plad_bench.contract.errors import MissingError

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}


@contextmanager
def held(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file; the file exists only while a process holds the lock or waits for it.

    Yields:
        True if the lock is held; without `wait`, False if another process, or another thread of this one, holds it.

    Raises:
        MissingError: if the file system has no locks.
        OSError: if the file cannot be opened.
    """
    handle = claim(path, wait=wait)
    if handle is None:
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):  # a remaining file does not lock anything
            path.unlink()
        os.close(handle)


def is_held(path: Path) -> bool:
    """Whether the lock of a file is held. Writes nothing. Errors as `held`."""
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        return not _lock(handle, path, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(handle)


def claim(path: Path, *, wait: bool = True) -> int | None:
    """Open a file exclusively, creating it if missing; None if another claim holds it and `wait` is False.

    The holder may write, rename or remove the file, and ends the claim by closing the file descriptor. Errors as
    `held`.
    """
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
        mine = False
        try:
            if not _lock(handle, path, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB)):
                return None
            mine = _is(path, handle)  # otherwise its last holder has removed or renamed it
        finally:
            if not mine:
                os.close(handle)
        if mine:
            return handle


def _is(path: Path, handle: int) -> bool:
    try:
        return os.path.samestat(path.stat(follow_symlinks=False), os.fstat(handle))
    except FileNotFoundError:
        return False


def _lock(handle: int, path: Path, how: int) -> bool:
    try:
        fcntl.flock(handle, how)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        raise MissingError(
            f"the file system of {path.parent} does not support file locks (flock): {error.strerror}",
            "Choose a directory on another file system with --store or --boards-dir.",
        ) from error
    return True
