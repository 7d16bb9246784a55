"""What the project warns of while a benchmark runs, printed below the benchmark's figures."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from logging.handlers import BufferingHandler


@contextmanager
def warnings_after() -> Iterator[None]:
    """Print what the project warns of within, such as parts that were not compiled, once its figures are printed."""
    kept = BufferingHandler(10_000)
    kept.setLevel(logging.WARNING)
    logger = logging.getLogger("plad_bench")
    logger.addHandler(kept)
    try:
        yield
    finally:
        logger.removeHandler(kept)
        said = dict.fromkeys(record.getMessage() for record in kept.buffer)
        if said:
            print("\nWarnings:\n\n" + "\n".join(f"- {text}" for text in said), flush=True)
