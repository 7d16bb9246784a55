"""JSON Lines, wherever the project reads or writes them: a JSON value in UTF-8 on each line, ended by a line feed.

A text may hold other line separators (U+2028, NEL, a carriage return), and no line is split at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class NotJsonError(ValueError):
    """A line is no JSON; the message says why, without its text."""


def numbered(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The lines of a binary stream that are not blank, without their ends, each with its number, counted from 1."""
    for number, line in enumerate(stream, 1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, line.rstrip()


def parse(line: bytes) -> Any:
    """The value of a line; a byte order mark before it is ignored.

    Raises:
        NotJsonError: if it is not UTF-8 or not JSON, or if an object in it has a field twice, of which JSON readers
            would keep one.
    """
    try:
        return json.loads(line.decode("utf-8-sig"), object_pairs_hook=_object)
    except NotJsonError:
        raise
    except UnicodeDecodeError as error:
        raise NotJsonError(f"not UTF-8 at byte {error.start + 1}") from None
    except json.JSONDecodeError as error:
        raise NotJsonError(f"not JSON: {error.msg} at column {error.colno}".replace("'", "")) from None
    except (ValueError, RecursionError):
        raise NotJsonError("not JSON: nested too deep, or a number too long") from None


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a file that the harness wrote.

    Raises:
        NotJsonError: at a line that is none; what the harness verifies by its hash has no such line.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as stream:
        for _, line in numbered(stream):
            yield parse(line)


def line_of(row: Mapping[str, Any]) -> bytes:
    """A row as a line with its end, readable as it is: only text that is no valid Unicode is escaped."""
    try:
        return (json.dumps(row, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which some servers send
        return (json.dumps(row) + "\n").encode()


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a file of rows."""
    with path.open("wb") as stream:
        stream.writelines(map(line_of, rows))


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise NotJsonError("an object has the same field twice")
    return values
