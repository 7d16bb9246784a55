"""The processes of one stage, combined to one."""

from __future__ import annotations

from collections.abc import Sequence

from plad_bench import StageProcess


class Together(StageProcess):
    """All ranks of a stage. When rank 0 ends, the others are killed; if any rank fails, the stage fails."""

    def __init__(self, ranks: Sequence[StageProcess]) -> None:
        self._ranks = ranks
        self._code: int | None = None

    def poll(self) -> int | None:
        """The exit code of rank 0 or, if ranks failed, the code of a failure, preferably a signal."""
        if self._code is None:
            codes = self._poll()
            if codes[0] == 0:
                self._end(0)
            elif any(codes):
                # A rank may have failed because another one failed first, which has ended by now.
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
