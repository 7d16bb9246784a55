"""Trainings that are killed on the way."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from plad_bench.execute.worker import Context


class KilledError(Exception):
    """Stands for a kill."""


@contextmanager
def killed_at(kill: int) -> Iterator[None]:
    """A training within ends after this step, as if it were killed."""

    def progress(self, step, total, **values):
        if step == kill:
            raise KilledError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Context, "progress", progress)
        with pytest.raises(KilledError):
            yield
