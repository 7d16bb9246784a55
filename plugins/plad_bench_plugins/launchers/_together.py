"""The processes that share a stage, as one process."""

from __future__ import annotations

from collections.abc import Sequence

from plad_bench import StageProcess


class Together(StageProcess):
    """Rank 0 and its helpers: its end is theirs, and a helper's failure is its own."""

    def __init__(self, ranks: Sequence[StageProcess]) -> None:
        self._ranks = ranks
        self._code: int | None = None

    def poll(self) -> int | None:
        """What the first rank exited with, or, where some failed, what explains it: a signal first."""
        if self._code is None:
            codes = self._poll()
            if codes[0] == 0:
                self._end(0)
            elif any(codes):
                # It may have failed because another did before it, which by now has ended.
                self._end(min(filter(None, self._poll()), key=lambda code: code > 0))
        return self._code

    def kill(self) -> None:
        for rank in self._ranks:
            rank.kill()

    def _poll(self) -> list[int | None]:
        return [rank.poll() for rank in self._ranks]

    def _end(self, code: int) -> None:
        self._code = code
        self.kill()
