"""Read and write JSON Lines: one JSON value per line, in UTF-8, ended by a line feed.

Texts may contain other line separators (U+2028, NEL, a carriage return); lines are not split at them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any


class NotJsonError(ValueError):
    """A line is not valid JSON; the message gives the reason without quoting the line."""


def numbered(stream: Iterable[bytes]) -> Iterator[tuple[int, bytes]]:
    """The non-blank lines of a binary stream, without line ends, each with its number from 1."""
    for number, line in enumerate(stream, 1):
        if line.strip(b" \t\r\n\xef\xbb\xbf"):
            yield number, line.rstrip()


def parse(line: bytes) -> Any:
    """Parse a line; a leading byte order mark is ignored.

    Raises:
        NotJsonError: if the line is not UTF-8 or not JSON, or if an object has the same field twice, of which JSON
            readers keep only one.
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
    """Read the objects of a file that the harness wrote.

    Raises:
        NotJsonError: at an invalid line, which a file with a verified hash does not contain.
        OSError: if the file cannot be read.
    """
    with path.open("rb") as stream:
        for _, line in numbered(stream):
            yield parse(line)


def line_of(row: Mapping[str, Any]) -> bytes:
    """Format a row as a line; only text that is not valid Unicode is escaped."""
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
